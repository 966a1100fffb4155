"""The plots of `heads` and `needle`."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from drope_jax.analysis import canvas, palette
from drope_jax.analysis.canvas import Curve, Figure
from drope_jax.analysis.studies import needle
from drope_jax.analysis.studies.heads import Activations, Head, Profile
from drope_jax.analysis.studies.needle import Around


@matplotlib.rc_context(canvas.STYLE)
def scores(heads: Sequence[Head]) -> Figure:
  """Every head's bias, mass on the needle and weight on the first token."""
  shape = 1 + max(h.layer for h in heads), 1 + max(h.head for h in heads)
  shown = {
    "bias to offsets 0 to 2": [max(head.bias) for head in heads],
    "mass on the needle": [head.needle for head in heads],
    "weight on the first token": [head.first_token for head in heads],
  }
  fig = Figure(
    figsize=(canvas.WIDTH_IN, 1.5 + 0.16 * shape[0]), layout="constrained"
  )
  grid = fig.subplots(1, len(shown), sharey=True)
  shades = matplotlib.colormaps["cividis"].resampled(20)
  for ax, (title, values) in zip(grid, shown.items(), strict=True):
    cells = ax.pcolormesh(
      np.reshape(values, shape), cmap=shades, vmin=0, vmax=1
    )
    ax.set_title(title)
    ax.set_xlabel("head")
    ax.grid(visible=False)
    for axis, count in ((ax.xaxis, shape[1]), (ax.yaxis, shape[0])):
      step = -(-count // 12)
      axis.set_ticks(np.arange(0, count, step) + 0.5, range(0, count, step))
  grid[0].set_ylabel("layer")
  grid[0].invert_yaxis()
  fig.colorbar(cells, ax=list(grid), pad=0.01, aspect=14)
  return fig


@matplotlib.rc_context(canvas.STYLE)
def offsets(profiles: Sequence[Profile]) -> Figure:
  """One head's mean weight by offset, a panel for each factor (Figure 7)."""
  place = range(len(profiles[0].weights))
  figure = _by_factor(profiles, place, "tokens before the query", "mean weight")
  for ax in figure.axes:
    ax.set_yscale("log")
    ax.set_ylim(bottom=1e-4)
  return figure


@matplotlib.rc_context(canvas.STYLE)
def around(profiles: Sequence[Around]) -> Figure:
  """One head's weights around the needle, by factor (Figure 8)."""
  place = range(-needle.AROUND, needle.AROUND + 1)
  return _by_factor(
    profiles,
    place,
    "tokens after the value's first",
    "weight of the last token",
  )


@matplotlib.rc_context(canvas.STYLE)
def first_token(
  before: Sequence[Activations], after: Sequence[Activations]
) -> Figure:
  """Massive activations and the first token's share, before and after."""
  looks = (
    palette.renamed(palette.BASE, "before"),
    palette.renamed(palette.DROPPED, "after"),
  )
  fig = Figure(figsize=(canvas.WIDTH_IN, 3.0), layout="constrained")
  left, right = fig.subplots(1, 2)
  for look, layers in zip(looks, (before, after), strict=True):
    x = range(len(layers))
    massive = [layer.largest / max(layer.median, 1e-30) for layer in layers]
    canvas.line(left, Curve(look, x, massive))
    canvas.line(right, Curve(look, x, [layer.first_token for layer in layers]))
  left.set_yscale("log")
  left.set_title("largest activation / median")
  right.set_title("mean weight on the first token")
  right.set_ylim(bottom=0)
  for ax in (left, right):
    ax.set_xlabel("layer")
    canvas.in_whole_numbers(ax)
  canvas.legend(fig, left)
  return fig


def _by_factor(
  profiles: Sequence[Profile] | Sequence[Around],
  x: Sequence[int],
  x_label: str,
  y_label: str,
) -> Figure:
  """Returns a panel for each factor, with a line for each method."""
  looks = palette.looks(("base", profile.method) for profile in profiles)
  by_factor: dict[float, list[Profile | Around]] = {}
  for profile in profiles:
    by_factor.setdefault(profile.factor, []).append(profile)
  panels: Mapping[str, Sequence[Curve]] = {
    f"{factor:g}×": [
      Curve(looks["base", profile.method], x, profile.weights)
      for profile in found
    ]
    for factor, found in sorted(by_factor.items())
  }
  fig, grid = canvas.panels(panels, 2.9)
  for ax, curves in zip(grid, panels.values(), strict=True):
    for curve in curves:
      canvas.line(ax, curve, marker="")
    ax.set_xlabel(x_label)
  grid[0].set_ylim(bottom=0)  # Of all: after the last line, for its top.
  grid[0].set_ylabel(y_label)
  return fig
