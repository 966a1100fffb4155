"""The report's plots and tables that compare models by length."""

import dataclasses
import math

from drope_jax.analysis import palette, panels, report, runs
from drope_jax.analysis.plots import lengths
from drope_jax.evals import interface, longbench
from drope_jax.evals.metric import NATS, SHARE

_FEW = 10
"""With fewer samples in a cell of the heat map, the caption warns of chance."""


_LONGBENCH = "LongBench"
"""The topic of its tasks, which have a mean."""

_WHICH = ("", "length", "softmax scale")
"""Columns that say what a row is of."""


def by_topic(
  run: runs.Run, scores: runs.Scores
) -> dict[str, list[report.Block]]:
  """Returns plots and tables by `Metric.topic`, in the order of the results.

  Each metric is shown by the kinds of plot that it names.

  Args:
    run: with results.json, for the metrics and their series.
    scores: from `runs.scores` of its rows.
  """
  topics: dict[str, list[report.Block]] = {}
  for task, metrics in run.metrics_of.items():
    for metric in metrics:
      of_metric = {
        cell: score
        for cell, score in scores.items()
        if (cell.task, cell.metric) == (task, metric.name)
      }
      rows = [
        row
        for row in run.rows
        if (row["task"], row["metric"]) == (task, metric.name)
      ]
      if rows:
        topics.setdefault(metric.topic, []).extend(
          _blocks(metric, task.replace("_", "-"), rows, of_metric)
        )
  if _LONGBENCH in topics:
    topics[_LONGBENCH] += _means(run.rows)
  return topics


def _blocks(metric, name, rows, scores) -> list[report.Block]:
  """Returns what shows one metric of one task."""
  show = {
    "length": lambda: [_by_length(metric, name, scores)],
    "table": lambda: [_table(metric, name, scores)],
    "part": lambda: _by_part(metric, name, rows),
    "position": lambda: _by_position(metric, name, rows),
    "distance": lambda: _by_distance(metric, name, rows),
    "depth": lambda: _by_depth(metric, name, rows),
  }
  blocks = [block for kind in metric.plots for block in show[kind]()]
  return blocks + _errors(name, rows)


def _by_length(metric, name, scores):
  plot = lengths.by_factor(
    panels.by_factor(scores), label=metric.title, is_share=metric.unit == SHARE
  )
  return report.Plot(
    plot,
    f"{_described(metric, name)}, by length, with 95% intervals. Bars stand in "
    "the order of the names above.",
  )


def _described(metric, name):
  if metric.unit == SHARE:
    return f"{name}: share of {metric.title}"
  return f"{name}: {metric.title}, {metric.unit}"


def _by_position(metric, name, rows):
  """Returns a plot of the series at the longest length; [] without series."""
  caption = (
    "{what}, by position in texts of {length:,.0f} tokens. No model was "
    "trained beyond the dotted line."
  )
  if not metric.higher_is_better:
    caption += (
      " A model that reads on stays flat or falls, because it has read more. A "
      f"line that leaves the top is above {lengths.OFF_THE_TOP:g} times the "
      "lowest value."
    )
  return _by_tokens(
    metric, name, rows, caption, cut_off_far_above=not metric.higher_is_better
  )


def _by_distance(metric, name, rows):
  """Returns a plot of the series at the longest length; [] without series."""
  caption = (
    "{what}, in texts of {length:,.0f} tokens: those that follow the same two "
    "tokens as before, by how far back that was. A cropped model has not read "
    "what is right of the dotted line; one that is no better there does not "
    "use it."
  )
  return _by_tokens(metric, name, rows, caption, along="distance in tokens")


def _by_tokens(metric, name, rows, caption, cut_off_far_above=False, **axis):
  longest = max(row["factor"] for row in rows)
  series = [r for r in rows if r["factor"] == longest and r["series"]]
  if not series:
    return []
  context = series[0]["context_tokens"]
  plot = lengths.by_tokens(
    panels.by_position(series),
    context_tokens=context,
    label=f"{metric.title} ({metric.unit})",
    cut_off_far_above=cut_off_far_above,
    **axis,
  )
  what = _described(metric, name)
  said = caption.format(what=what, length=longest * context)
  return [report.Plot(plot, said)]


def _table(metric, name, scores):
  unit = f"{metric.unit}, with perplexity (ppl)"
  of = _described(
    dataclasses.replace(metric, unit=unit) if metric.unit == NATS else metric,
    name,
  )
  return _by_factor(
    scores,
    f"{of}, by length, with its 95% interval. {_samples(scores)}",
    is_loss=metric.unit == NATS,
  )


def _by_part(metric, name, rows):
  """Returns a table of the whole and of its parts; [] without parts."""
  rows = [row for row in rows if row.get("parts")]
  return [_parts(rows, _described(metric, name))] if rows else []


def _means(rows):
  """Returns a table of LongBench's means and of LongBench-E's, if any."""
  by_name = {}
  for mean in longbench.means(map(interface.Result.from_dict, rows)):
    what = f"{mean.task.replace('_', '-')}: {mean.metric}"
    by_name.setdefault(what, []).append(mean.to_dict())
  return [_parts(own, what) for what, own in by_name.items()]


def _parts(rows, what):
  names = {part["name"]: None for row in rows for part in row["parts"]}
  cells = []
  for row in rows:
    by_name = {part["name"]: _of_part(part) for part in row["parts"]}
    cells.append([*_which(row), _of_part(row), *map(by_name.get, names)])
  caption = (
    f"{what}, of all inputs and by their own length before they are cut, with "
    "95% intervals, the number of inputs, and how many of them were cut to the "
    "tested length."
  )
  return report.Table((*_WHICH, "all", *names), cells, caption)


def _of_part(part):
  beside = f"{part['count']} inputs"
  if part["truncated"] is not None:
    beside += f", {part['truncated']:.0%} cut"
  return report.Interval(part["value"], part["low"], part["high"], 3, beside)


def _which(row):
  """Returns the cells that say which model a row is of, and where."""
  return [
    palette.label(row["model"], row["method"]),
    f"{row['factor']:g}×",
    "fitted" if row["scale_fitted"] else "its own",
  ]


def _errors(name, rows) -> list[report.Block]:
  """Returns a table of the kinds of wrong answers; [] if there are none."""
  rows = [row for row in rows if row.get("errors")]
  if not any(sum(row["errors"].values()) for row in rows):
    return []
  kinds = list(dict.fromkeys(kind for row in rows for kind in row["errors"]))
  cells = [
    [
      *_which(row),
      row["count"],
      *(row["errors"].get(kind, 0) for kind in kinds),
    ]
    for row in rows
  ]
  columns = (*_WHICH, "questions", *kinds)
  caption = f"{name}: how many answers were wrong, and in which way."
  table = report.Table(columns, cells, caption)
  return [report.Details(f"Kinds of errors in {name}", [table])]


def _samples(scores):
  """Returns a sentence on the number of samples at each length."""
  counts = {
    c.factor: sum(map(len, s.outcomes.values())) for c, s in scores.items()
  }
  said = ", ".join(f"{counts[f]} at {f:g}×" for f in sorted(counts))
  return f"Samples: {said}."


def _by_depth(metric, name, rows):
  """Returns a heat map for each treatment, of the rows that have a series."""
  rows = [row for row in rows if row["series"]]
  looks = palette.looks((r["model"], r["method"]) for r in rows)
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
          and panels.belongs(row["scale_fitted"], factor, fitted)
        ]
        if chosen:
          shares[factor][look.label] = panels.mean_series(chosen)
          asked = sum(len(row["outcomes"]) for row in chosen)
          fewest = min(fewest, asked / len(shares[factor][look.label]))
    caption = (
      f"{_described(metric, name)}, by length and by the fifth of the text "
      "that the answer is hidden in."
    )
    if len(treatments) > 1:
      caption += f" Here {panels.TITLES[fitted]}."
    if fewest < _FEW:
      caption += (
        f" At the longest length a cell has about {max(fewest, 1):.0f} "
        "questions, so that single cells say little."
      )
    blocks.append(report.Plot(lengths.by_depth(shares), caption))
  return blocks


def _by_factor(scores, caption, is_loss=False):
  """Returns a table with a row a model and method, and a column a factor."""
  factors = sorted({cell.factor for cell in scores})
  treatments = panels.treatments(scores)
  looks = palette.looks((c.model, c.method) for c in scores)
  rows = []
  for fitted in treatments:
    for (model, method), look in looks.items():
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
