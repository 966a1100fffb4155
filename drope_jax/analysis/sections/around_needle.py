"""Attention around the needle: a figure that a reader turns through.

The paper's Figure 8, with a slider over length.
"""

from collections.abc import Mapping, Sequence
import html
import json
import string
from typing import Any

from drope_jax import artifacts
from drope_jax.analysis import methods, report
from drope_jax.evals import interface

Rows = Sequence[Mapping[str, Any]]
"""Fields of `studies.needle.Around`."""

_FIGURE = string.Template("""<div class="controls">
<label>head <select name="head">$heads</select></label>
<label>positions <select name="method">$methods</select></label>
<label>length <input name="factor" type="range" min="0" max="$last" value="0">
<output></output></label>
</div>
<div class="top"></div>
<svg class="bars" viewBox="0 0 $count 100" preserveAspectRatio="none" role="img"
aria-label="attention to each token around the value"></svg>
<div class="ticks">$ticks</div>
<p class="found" aria-live="polite"></p>
<noscript>The bars need a script, which this page has.</noscript>
<script type="application/json">$data</script>
<script>
{
  const root = document.currentScript.parentElement;
  const find = (what) => root.querySelector(what);
  const {rows, factors} = JSON.parse(find("[type='application/json']").text);
  const percent = (share) =>
    share === null ? "unknown" : (100 * share).toFixed(1) + "%";
  const draw = () => {
    const head = find("[name=head]").value;
    const method = find("[name=method]").value;
    const factor = factors[find("[name=factor]").value];
    const own = rows.filter((row) => row.head === head);
    const here = own.filter((row) => row.factor === factor);
    // At the trained length nothing is scaled, so there is one row for all.
    const row = here.find((row) => row.method === method) ?? here[0];
    const length = factor + "× the context";
    find("output").textContent = length;
    const top = Math.max(1e-9, ...own.flatMap((r) => r.weights));
    const middle = (row.weights.length - 1) / 2;
    find(".top").textContent = percent(top);
    find(".bars").innerHTML = row.weights.map((weight, i) => {
      const height = 100 * weight / top, place = i - middle;
      return `<rect class="$${place ? "" : "value"}" x="$${i + 0.1}" width="0.8"
        y="$${100 - height}" height="$${height}">
        <title>token $${place}: $${percent(weight)}</title></rect>`;
    }).join("");
    const deviation = row.deviation === null ? "unknown" :
      row.deviation.toFixed(1) + " tokens";
    find(".found").textContent = [
      `$${head}, $${row.method}, $${length}: the peak is at token $${row.peak}`,
      `$${percent(row.within_one)} is on the value and one token on each side`,
      `the deviation of the place is $${deviation}.`].join("; ");
  };
  for (const control of root.querySelectorAll("select, input"))
    control.oninput = draw;
  draw();
}
</script>""")

_SAID = (
  "Bars are the attention of a prompt's last token, which predicts the answer, "
  "to the tokens around the needle: a mean over prompts. The value that is "
  "asked for begins at 0. Every length of a head has the same scale."
)


def blocks(heads: Mapping[str, Any] | None) -> list[report.Block]:
  """Returns the figure and the scores of all heads.

  Args:
    heads: the content of a heads.json; None, or one without a needle: nothing
      is returned.
  """
  if heads is None or not heads["needle"]:
    return []
  columns = ("layer", "head", "role", "largest bias", "needle", "first token")
  scores = [
    (
      head["layer"],
      head["head"],
      head["role"],
      max(map(interface.number, head["bias"])),
      interface.number(head["needle"]),
      interface.number(head["first_token"]),
    )
    for head in heads["heads"]
  ]
  return [
    report.Interactive(_figure(heads["needle"]), _SAID),
    report.Details(
      "Every head in numbers",
      [
        report.Table(
          columns,
          scores,
          "The largest bias is to the current token or one of the two before. "
          "The needle's is the mass on it at the trained context.",
        )
      ],
    ),
  ]


def _figure(found: Rows) -> str:
  rows = [
    {
      "head": f"layer {row['layer']}, head {row['head']}",
      "method": _label(row["method"]),
      "factor": row["factor"],
      "weights": [
        round(interface.number(weight), 6) for weight in row["weights"]
      ],
      "peak": row["peak"],
      "within_one": row["within_one"],
      "deviation": row["deviation"],
    }
    for row in found
  ]
  factors = sorted({row["factor"] for row in rows})
  count = len(rows[0]["weights"])
  data = json.dumps(
    artifacts.encode({"rows": rows, "factors": factors}, finite=False)
  )
  return _FIGURE.substitute(
    heads=_options(row["head"] for row in rows),
    methods=_options(row["method"] for row in rows),
    last=len(factors) - 1,
    count=count,
    ticks="".join(map(_tick, range(-(count // 2), count // 2 + 1))),
    data=data.replace("<", "\\u003c"),
  )


def _label(method: str) -> str:
  known = methods.METHODS.get(method)
  return known.label if known else "its own"


def _options(names) -> str:
  return "".join(
    f"<option>{html.escape(name)}</option>" for name in dict.fromkeys(names)
  )


def _tick(place: int) -> str:
  kind = ' class="few"' if place % 8 else ""
  return f"<span{kind}>{'' if place % 4 else place}</span>"
