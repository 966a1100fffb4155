"""Models side by side, by length: the report's plots and tables of scores."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from drope_jax.analysis import canvas, palette, plots, report, runs

_PANELS = {
  False: "each with the softmax scale that its checkpoint has",
  True: "each with a softmax scale fitted for it here",
}
_FEW = 10
"""Samples of a cell of the heat map below which the caption warns of chance."""


def retrieval(
  rows: Sequence[Mapping[str, Any]], scores: runs.Scores
) -> list[report.Block]:
  """Returns bars and a table by length, and a heat map by depth, of each task.

  Args:
    rows: of results.json, for their series by depth.
    scores: the same, gathered.
  """
  blocks = []
  found = {c: s for c, s in scores.items() if c.metric == "accuracy"}
  for task in dict.fromkeys(cell.task for cell in found):
    of_task = {c: s for c, s in found.items() if c.task == task}
    name = task.replace("_", "-")
    blocks += [
      report.Plot(
        plots.accuracy_by_factor(_panels(of_task), label="answered exactly"),
        f"Share of {name} questions answered exactly, by length, with 95% "
        "intervals. Bars stand in the order of the names above.",
      ),
      _by_factor(
        of_task,
        "The same in numbers: the share, and its 95% interval. "
        f"{_asked(of_task)}",
      ),
      *_by_depth([r for r in rows if r["task"] == task], name),
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
        "falls, because it has read more. A line that leaves the top is above "
        f"{plots.OFF_THE_TOP:g} times the lowest loss.",
      )
    )
  tail = next(iter(found)).metric == "tail_loss"
  what = (
    "the last trained context's length of a text: the same tokens at each "
    "length, after more or less text before them"
    if tail
    else "a text"
  )
  blocks.append(
    _by_factor(
      found,
      f"Loss in nats per token, perplexity (ppl), and the loss's 95% interval, "
      f"over {what}.",
      is_loss=True,
    )
  )
  return blocks


def _asked(scores):
  """Says how many questions there were, by length."""
  counts = {
    c.factor: sum(map(len, s.outcomes.values())) for c, s in scores.items()
  }
  said = ", ".join(f"{counts[f]} at {f:g}×" for f in sorted(counts))
  return f"Questions: {said}."


def _panels(scores):
  """Returns {title: curves by factor}, a panel for each treatment there is."""
  looks = _looks((c.model, c.method) for c in scores)
  panels = {}
  for fitted in _treatments(scores):
    curves = []
    for pair, look in looks.items():
      points = sorted(
        (c.factor, s)
        for c, s in scores.items()
        if (c.model, c.method) == pair and _stands(c, fitted)
      )
      if points:
        x, found = zip(*points, strict=True)
        value, low, high, *_ = zip(*found, strict=True)
        low, high = (_known(ends, value) for ends in (low, high))
        curves.append(canvas.Curve(look, x, value, low, high))
    panels[fitted] = curves
  return _titled(panels)


def _treatments(scores):
  """The treatments that something was measured under, beyond 1×."""
  return sorted({c.scale_fitted for c in scores})


def _stands(cell, fitted):
  """Whether a score stands among those of a treatment: at 1× in each."""
  return cell.scale_fitted == fitted or (fitted and cell.factor == 1)


def _titled(panels):
  if len(panels) == 1:
    return {"": next(iter(panels.values()))}
  return {_PANELS[fitted]: panel for fitted, panel in panels.items()}


def _known(ends, values):
  """The ends of intervals; a value without one has a bar of no length."""
  return [
    value if end is None else end
    for end, value in zip(ends, values, strict=True)
  ]


def _looks(pairs):
  return palette.looks(dict.fromkeys(pairs))


def _series_panels(rows):
  """As `_panels`, by position; of several seeds, the mean."""
  looks = _looks((r["model"], r["method"]) for r in rows)
  panels = {}
  for fitted in sorted({row["scale_fitted"] for row in rows}):
    curves = []
    for pair, look in looks.items():
      series = _mean_series(
        row
        for row in rows
        if (row["model"], row["method"]) == pair
        and row["scale_fitted"] == fitted
      )
      if series:
        curves.append(canvas.Curve(look, list(series), list(series.values())))
    panels[fitted] = curves
  return _titled(panels)


def _mean_series(rows):
  """The mean of several rows' series, {} of none."""
  seeds = [dict(map(tuple, row["series"])) for row in rows]
  found = {}
  for x in sorted(set().union(*seeds)):
    values = [seed[x] for seed in seeds if seed.get(x) is not None]
    found[x] = sum(values) / len(values) if values else math.nan
  return found


def _by_depth(rows, name):
  """A heat map for each treatment, of the rows that have a series by depth."""
  rows = [r for r in rows if r["metric"] == "accuracy" and r["series"]]
  looks = _looks((r["model"], r["method"]) for r in rows)
  blocks = []
  treatments = sorted({row["scale_fitted"] for row in rows})
  for fitted in treatments:
    shares, fewest = {}, math.inf
    for factor in sorted({row["factor"] for row in rows}):
      shares[factor] = {}
      for pair, look in looks.items():
        chosen = [
          row
          for row in rows
          if (row["model"], row["method"], row["factor"]) == (*pair, factor)
          and (row["scale_fitted"] == fitted or (fitted and factor == 1))
        ]
        if chosen:
          shares[factor][look.label] = _mean_series(chosen)
          asked = sum(len(row["outcomes"]) for row in chosen)
          fewest = min(fewest, asked / len(shares[factor][look.label]))
    caption = (
      f"Share of {name} questions answered exactly, by length and by the fifth "
      "of the text that the answer is hidden in."
    )
    if len(treatments) > 1:
      caption += f" Here {_PANELS[fitted]}."
    if fewest < _FEW:
      caption += (
        f" At the longest a cell is of about {max(fewest, 1):.0f} questions, "
        "so single cells say little."
      )
    blocks.append(report.Plot(plots.accuracy_by_depth(shares), caption))
  return blocks


def _by_factor(scores, caption, is_loss=False):
  """A table: a row for each way to read, a column for each factor."""
  factors = sorted({cell.factor for cell in scores})
  treatments = _treatments(scores)
  rows = []
  for fitted in treatments:
    for (model, method), look in _looks(
      (c.model, c.method) for c in scores
    ).items():
      by_factor = {
        c.factor: _interval(s, is_loss)
        for c, s in scores.items()
        if c[2:4] == (model, method) and c.scale_fitted == fitted
      }
      if by_factor:
        scale = ["fitted" if fitted else "its own"] * (len(treatments) > 1)
        cells = [by_factor.get(factor) for factor in factors]
        rows.append([look.label, *scale, *cells])
  scale = ["softmax scale"] * (len(treatments) > 1)
  columns = ["", *scale, *(f"{factor:g}×" for factor in factors)]
  return report.Table(columns, rows, caption)


def _interval(score, is_loss):
  if not is_loss:
    return report.Interval(*score[:3])
  try:
    beside = f"ppl {math.exp(score.value):,.1f}"
  except OverflowError:
    beside = "ppl ∞"
  return report.Interval(*score[:3], 3, beside)
