"""Scores as curves, in a panel of a plot for each softmax scale."""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any

from drope_jax.analysis import canvas, palette, runs

TITLES = {
  False: "each with its checkpoint's softmax scale",
  True: "each with a softmax scale fitted here",
}
"""Of a panel, by whether its scores are with a fitted scale."""

Panels = Mapping[str, Sequence[canvas.Curve]]
"""Curves by the title of their panel; a single panel has no title."""


def by_factor(scores: runs.Scores) -> Panels:
  """Returns curves over length factors, with the scores' intervals."""
  panels = {}
  looks = palette.looks((c.model, c.method) for c in scores)
  for fitted in treatments(scores):
    curves = []
    for pair, look in looks.items():
      points = sorted(
        (cell.factor, score)
        for cell, score in scores.items()
        if (cell.model, cell.method) == pair
        and belongs(cell.scale_fitted, cell.factor, fitted)
      )
      if points:
        x, of_pair = zip(*points, strict=True)
        value, low, high, *_ = zip(*of_pair, strict=True)
        low, high = (_known(ends, value) for ends in (low, high))
        curves.append(canvas.Curve(look, x, value, low, high))
    panels[fitted] = curves
  return _titled(panels)


def by_position(rows: Sequence[Mapping[str, Any]]) -> Panels:
  """Returns curves of the rows' series, the mean of several seeds."""
  panels = {}
  looks = palette.looks((r["model"], r["method"]) for r in rows)
  for fitted in sorted({row["scale_fitted"] for row in rows}):
    curves = []
    for pair, look in looks.items():
      series = mean_series(
        row
        for row in rows
        if (row["model"], row["method"]) == pair
        and row["scale_fitted"] == fitted
      )
      if series:
        curves.append(canvas.Curve(look, list(series), list(series.values())))
    panels[fitted] = curves
  return _titled(panels)


def mean_series(rows: Iterable[Mapping[str, Any]]) -> dict[float, float]:
  """Returns the mean of the rows' series; {} without rows."""
  seeds = [dict(map(tuple, row["series"])) for row in rows]
  means = {}
  for x in sorted(set().union(*seeds)):
    values = [seed[x] for seed in seeds if seed.get(x) is not None]
    means[x] = sum(values) / len(values) if values else math.nan
  return means


def treatments(scores: runs.Scores) -> list[bool]:
  """Returns which values `scale_fitted` has: False, True or both."""
  return sorted({cell.scale_fitted for cell in scores})


def belongs(scale_fitted: bool, factor: float, fitted: bool) -> bool:
  """Returns whether a score is in the panel of `fitted`.

  Scores at 1x are in both, as no scale is fitted there.
  """
  return scale_fitted == fitted or (fitted and factor == 1)


def _titled(panels):
  if len(panels) == 1:
    return {"": next(iter(panels.values()))}
  return {TITLES[fitted]: curves for fitted, curves in panels.items()}


def _known(ends, values):
  """Returns ends of intervals, and the value itself where there is none."""
  return [
    value if end is None else end
    for end, value in zip(ends, values, strict=True)
  ]
