"""Methods side by side, by length: the report's plots and tables of scores."""

from collections.abc import Mapping, Sequence
from typing import Any

from drope_jax.analysis import canvas, palette, plots, report, runs

_PANELS = {
  False: "without a softmax scale",
  True: "each with its own fitted scale",
}


def retrieval(scores: runs.Scores) -> list[report.Block]:
  """Returns a plot and a table of each retrieval task, by length."""
  blocks = []
  found = {c: s for c, s in scores.items() if c.metric == "accuracy"}
  for task in dict.fromkeys(cell.task for cell in found):
    of_task = {c: s for c, s in found.items() if c.task == task}
    name = task.replace("_", "-")
    panels = _panels(of_task, lambda c, s: (c.factor, s))
    blocks += [
      report.Plot(
        plots.accuracy_by_factor(panels, label=f"{name} answered exactly"),
        f"Share of {name} questions answered exactly, by length; bars are 95% "
        "intervals. Compare within a panel: there all methods are treated "
        "alike.",
      ),
      _by_factor(
        of_task,
        f"Share of {name} questions answered exactly, with 95% intervals; a "
        "fitted softmax scale is each method's own.",
      ),
    ]
  return blocks


def losses(
  rows: Sequence[Mapping[str, Any]], scores: runs.Scores
) -> list[report.Block]:
  """Returns the loss by position at the longest length, and a table by length.

  Args:
    rows: of results.json, for their series by position.
    scores: the same, gathered.
  """
  found = {c: s for c, s in scores.items() if c.metric == "tail_loss"}
  found = found or {c: s for c, s in scores.items() if c.metric == "loss"}
  if not found:
    return []
  blocks = []
  longest = max(c.factor for c in scores if c.metric == "loss")
  series = [
    row
    for row in rows
    if row["metric"] == "loss" and row["factor"] == longest and row["series"]
  ]
  if series:
    context = series[0]["context_tokens"]
    blocks.append(
      report.Plot(
        plots.loss_by_position(_series_panels(series), context_tokens=context),
        f"Loss by position in texts of {longest * context:,.0f} tokens. Right "
        "of the dotted line no model was trained; a good reader stays flat or "
        "falls, because it has read more.",
      )
    )
  tail = next(iter(found)).metric == "tail_loss"
  what = (
    "the last trained context's length of a text, alike at each length,"
    if tail
    else "a text"
  )
  blocks.append(
    _by_factor(
      found, f"Loss in nats per token over {what}, with 95% intervals.", 3
    )
  )
  return blocks


def _panels(scores, point):
  """Returns {title: curves by factor}, without and with a fitted scale."""
  looks = palette.looks(dict.fromkeys((c.model, c.method) for c in scores))
  panels = {}
  for fitted, title in _PANELS.items():
    curves = []
    for pair, look in looks.items():
      points = sorted(
        point(c, s)
        for c, s in scores.items()
        if (c.model, c.method) == pair and c.scale_fitted == fitted
      )
      if points:
        x, found = zip(*points, strict=True)
        value, low, high, *_ = zip(*found, strict=True)
        low, high = (_known(ends, value) for ends in (low, high))
        curves.append(canvas.Curve(look, x, value, low, high))
    if curves:
      panels[title] = curves
  return panels


def _known(ends, values):
  """The ends of intervals; a value without one has a bar of no length."""
  return [
    value if end is None else end
    for end, value in zip(ends, values, strict=True)
  ]


def _series_panels(rows):
  """As `_panels`, by position; of several seeds, the mean."""
  looks = palette.looks(dict.fromkeys((r["model"], r["method"]) for r in rows))
  panels = {}
  for fitted, title in _PANELS.items():
    curves = []
    for pair, look in looks.items():
      seeds = [
        dict(map(tuple, row["series"]))
        for row in rows
        if (row["model"], row["method"]) == pair
        and row["scale_fitted"] == fitted
      ]
      if seeds:
        means = [sum(s[x] for s in seeds) / len(seeds) for x in seeds[0]]
        curves.append(canvas.Curve(look, list(seeds[0]), means))
    if curves:
      panels[title] = curves
  return panels


def _by_factor(scores, caption, decimals=2):
  """A table: a row for each method and treatment, a column for each factor."""
  factors = sorted({cell.factor for cell in scores})
  looks = palette.looks(dict.fromkeys((c.model, c.method) for c in scores))
  rows = []
  for fitted in _PANELS:
    for (model, method), look in looks.items():
      by_factor = {
        c.factor: report.Interval(*s[:3], decimals)
        for c, s in scores.items()
        if c[2:4] == (model, method) and c.scale_fitted == fitted
      }
      if by_factor:
        scale = "fitted" if fitted else "none"
        cells = [by_factor.get(factor) for factor in factors]
        rows.append([look.label, scale, *cells])
  columns = ["", "scale", *(f"{factor:g}×" for factor in factors)]
  return report.Table(columns, rows, caption)
