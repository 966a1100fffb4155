"""The plots of `bias` and `spread`."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib import axes
import numpy as np

from drope_jax.analysis import canvas, palette
from drope_jax.analysis.canvas import Curve, Figure
from drope_jax.analysis.studies.bias import LayerBias
from drope_jax.analysis.studies.spread import Spread
from drope_jax.evals import intervals

Measured = Mapping[str, Sequence[Sequence[LayerBias]]]
"""By positions, the rows of each seed."""

FIELDS = {
  "query_gradient_H": "|∂Aᶜ/∂W_Q|",
  "key_gradient_H": "|∂Aᶜ/∂W_K|",
  "value_H": "Aᶜ",
}

_BOUNDED = ("spread of states", "|Aᶜ|", "gradient of Aᶜ")
"""What `Spread.constants` bound."""


@matplotlib.rc_context(canvas.STYLE)
def by_layer(measured: Measured, fields: Sequence[str]) -> Figure:
  """The mean over heads by layer, with intervals over seeds (Figure 4).

  Args:
    measured: by positions.
    fields: keys of `FIELDS`, a row of panels each; a column is a pattern.
  """
  looks = palette.looks((name, "model") for name in measured)

  def draw(ax: axes.Axes, pattern: str, field: str) -> None:
    for seeds, look in zip(measured.values(), looks.values(), strict=True):
      curve = of_layers(seeds, pattern, field, look)
      canvas.line(ax, curve)
      if curve.low is not None:
        ax.fill_between(
          curve.x, curve.low, curve.high, color=look.color, alpha=0.15, lw=0
        )
    canvas.in_whole_numbers(ax)

  return _grid(next(iter(measured.values()))[0], fields, "layer", draw)


def of_layers(
  seeds: Sequence[Sequence[LayerBias]],
  pattern: str,
  field: str,
  look: palette.Look,
) -> Curve:
  """Returns a field's mean over heads and seeds by layer, with intervals."""
  each = [
    [np.mean(getattr(row, field)) for row in rows if row.pattern == pattern]
    for rows in seeds
  ]
  layers = list(zip(*each, strict=True))
  ends = [intervals.student(values) for values in layers]
  low, high = zip(*ends, strict=True) if None not in ends else (None, None)
  means = [float(np.mean(values)) for values in layers]
  return Curve(look, range(len(layers)), means, low, high)


@matplotlib.rc_context(canvas.STYLE)
def spread(measured: Mapping[str, Sequence[Spread]]) -> Figure:
  """What the theorem bounds, against the spread of the embeddings.

  A panel is the largest value of any layer. A line is a scheme at the longest
  length, and crosses are the same at the shortest.
  """
  looks = palette.looks((name, "model") for name in measured)
  all_lengths = {p.num_tokens for points in measured.values() for p in points}
  fig = Figure(figsize=(canvas.WIDTH_IN, 3.4), layout="constrained")
  grid = fig.subplots(1, len(_BOUNDED))
  for i, (ax, title) in enumerate(zip(grid, _BOUNDED, strict=True)):
    for points, look in zip(measured.values(), looks.values(), strict=True):
      lengths = [point.num_tokens for point in points]
      of_length = {
        length: [
          (p.spread_L[0], p.spread_L[0] * p.constants[i])
          for p in points
          if p.num_tokens == length
        ]
        for length in (max(lengths), min(lengths))
      }
      canvas.line(
        ax, Curve(look, *zip(*of_length[max(lengths)], strict=True)), marker=""
      )
      ax.plot(
        *zip(*of_length[min(lengths)], strict=True), "x", color=look.color
      )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_title(title)
    ax.set_xlabel("spread of embeddings")
  for mark, tokens in (("-", max(all_lengths)), ("x", min(all_lengths))):
    grid[0].plot([], [], mark, color="gray", label=f"at {tokens} tokens")
  canvas.legend(fig, grid[0])
  return fig


@matplotlib.rc_context(canvas.STYLE)
def along_training(
  points: Sequence[tuple[float, Sequence[LayerBias]]], fields: Sequence[str]
) -> Figure:
  """Each layer's mean over heads against the tokens of a training.

  Args:
    points: (tokens, rows), in order.
    fields: keys of `FIELDS`, a row of panels each; a column is a pattern.
  """
  tokens, steps = zip(*points, strict=True)
  layers = 1 + max(row.layer for row in steps[0])

  def draw(ax: axes.Axes, pattern: str, field: str) -> None:
    for layer, shade in enumerate(_shades(layers)):
      y = [
        np.mean(getattr(row, field))
        for rows in steps
        for row in rows
        if (row.layer, row.pattern) == (layer, pattern)
      ]
      ax.plot(tokens, y, ".-", color=shade, label=f"layer {layer}")
    ax.xaxis.set_major_formatter(canvas.TOKENS)

  return _grid(steps[0], fields, "training tokens", draw)


def _grid(
  rows: Sequence[LayerBias],
  fields: Sequence[str],
  x_label: str,
  draw: Callable[[axes.Axes, str, str], None],
) -> Figure:
  """Returns a figure of a panel for each field and each pattern of `rows`."""
  patterns = list(dict.fromkeys(row.pattern for row in rows))
  fig = Figure(
    figsize=(canvas.WIDTH_IN, 2.4 * len(fields) + 0.6), layout="constrained"
  )
  grid = fig.subplots(
    len(fields), len(patterns), sharex=True, sharey="row", squeeze=False
  )
  for (i, j), ax in np.ndenumerate(grid):
    draw(ax, patterns[j], fields[i])
  for ax, pattern in zip(grid[0], patterns, strict=True):
    ax.set_title(f"to the {pattern}")
  for ax, field in zip(grid[:, 0], fields, strict=True):
    ax.set_ylabel(FIELDS[field])
    if field != "value_H":
      ax.set_ylim(bottom=0)
  for ax in grid[-1]:
    ax.set_xlabel(x_label)
  canvas.legend(fig, grid[0, 0])
  return fig


def _shades(count: int) -> np.ndarray:
  return matplotlib.colormaps["viridis"](np.linspace(0, 0.85, count))
