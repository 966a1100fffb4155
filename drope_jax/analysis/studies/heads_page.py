"""A web page on which a reader turns through attention around the needle."""

from collections.abc import Sequence
import html
import json
import string

from drope_jax.analysis import palette, stylesheet
from drope_jax.analysis.studies import needle
from drope_jax.analysis.studies.needle import Around

_PAGE = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$css
label { margin-right: 1.5em; }
rect { fill: #d55e00; }
rect.value { fill: #1f77c0; }
svg text { fill: currentColor; font-size: 11px; text-anchor: middle; }
</style>
</head>
<body>
<main>
<section>
<h1>$title</h1>
<p>The attention of a prompt's last token to the tokens around the needle, whose
value starts at 0 (blue). A mean over prompts.</p>
<p>
<label>head <select id="head"></select></label>
<label>positions <select id="method"></select></label>
<label>length <input id="factor" type="range" min="0" step="1"></label>
<output id="length"></output>
</p>
<svg id="bars" viewBox="0 0 720 260" role="img" aria-label="weights"></svg>
<p id="facts"></p>
</section>
</main>
<script>
const DATA = $data, AROUND = $around;
const get = (id) => document.getElementById(id);
const unique = (key) => [...new Set(DATA.map((row) => row[key]))];
const factors = unique("factor").sort((a, b) => a - b);
for (const key of ["head", "method"])
  for (const name of unique(key)) get(key).add(new Option(name));
get("factor").max = factors.length - 1;
get("factor").value = 0;
function draw() {
  const factor = factors[get("factor").value];
  get("length").textContent = factor + "× the context";
  const same = DATA.filter((row) => row.head === get("head").value);
  const top = Math.max(1e-9, ...same.flatMap((row) => row.weights));
  const row = same.find(
    (row) => row.method === get("method").value && row.factor === factor);
  if (!row) {
    get("bars").innerHTML = "";
    get("facts").textContent = "These positions are as RoPE's at this length.";
    return;
  }
  const width = 700 / row.weights.length;
  get("bars").innerHTML = row.weights.map((weight, i) => {
    const height = 220 * weight / top, x = 10 + i * width;
    const place = i - AROUND;
    const tick = place % 4 ? "" :
      `<text x="$${x + width / 2}" y="250">$${place}</text>`;
    return `<rect class="$${place ? "" : "value"}" x="$${x}"
      y="$${230 - height}" width="$${width - 2}" height="$${height}">
      <title>$${place}: $${weight.toFixed(4)}</title></rect>` + tick;
  }).join("");
  const deviation = row.deviation === null ? "none" :
    row.deviation.toFixed(1) + " tokens";
  get("facts").textContent = `peak at $${row.peak}; mass on the value and ` +
    `one token on each side $${(100 * row.within_one).toFixed(1)}%; ` +
    `deviation $${deviation}`;
}
for (const id of ["head", "method", "factor"]) get(id).oninput = draw;
draw();
</script>
</body>
</html>
""")


def render(profiles: Sequence[Around], title: str) -> str:
  """Returns the page, which needs a script of its own and no network."""
  rows = [
    {
      "head": f"layer {profile.layer}, head {profile.head}",
      "method": palette.label("base", profile.method).removeprefix("base · "),
      "factor": profile.factor,
      "weights": [round(weight, 6) for weight in profile.weights],
      "peak": profile.peak,
      "within_one": profile.within_one,
      "deviation": profile.deviation,
    }
    for profile in profiles
  ]
  return _PAGE.substitute(
    title=html.escape(title),
    css=stylesheet.CSS,
    data=json.dumps(rows).replace("<", "\\u003c"),
    around=needle.AROUND,
  )
