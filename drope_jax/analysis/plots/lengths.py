"""Plots of scores at multiples of the trained context."""

from collections.abc import Mapping, Sequence
import math

import matplotlib
from matplotlib import ticker
import numpy as np

from drope_jax.analysis import canvas
from drope_jax.analysis.canvas import Curve, Figure

OFF_THE_TOP = 1.6
"""The axis of a loss by position ends at this multiple of the lowest loss."""


@matplotlib.rc_context(canvas.STYLE)
def by_tokens(
  panels: Mapping[str, Sequence[Curve]],
  *,
  context_tokens: int,
  label: str,
  cut_off_far_above: bool,
  along: str = "position in the document (tokens)",
) -> Figure:
  """A score against a number of tokens, the trained context marked.

  Args:
    panels: curves by title; x in tokens. They are averaged over half octaves,
      of which none crosses the end of the trained context.
    context_tokens: the length the models were trained at.
    label: what is scored, for the y axis.
    cut_off_far_above: whether the y axis ends at `OFF_THE_TOP` times the lowest
      value.
    along: what x is, for its axis.
  """
  fig, axes = canvas.panels(panels, 3.7, stacked=True)
  for ax, curves in zip(axes, panels.values(), strict=True):
    positions = [x for curve in curves for x in curve.x]
    canvas.doublings(ax, positions, canvas.POSITIONS)
    ax.axvline(context_tokens, color=canvas.INK, lw=0.8, ls=":")
    ax.annotate(
      "trained ",
      (context_tokens, 0.99),
      xycoords=("data", "axes fraction"),
      ha="right",
      va="top",
      fontsize=8,
    )
    for curve in curves:
      canvas.line(ax, _by_half_octaves(curve, context_tokens))
    ax.set_ylabel(label)
  if cut_off_far_above:
    _cut_off_far_above(axes[0])
  axes[-1].set_xlabel(along)
  return fig


@matplotlib.rc_context(canvas.STYLE)
def by_factor(
  panels: Mapping[str, Sequence[Curve]], *, label: str, is_share: bool
) -> Figure:
  """A score as bars by length factor, with its 95% intervals.

  Args:
    panels: curves by title; x is the length as a multiple of the trained one.
    label: what is scored, for the y axis.
    is_share: whether it is a share in 0 to 1, shown in percent.
  """
  fig, axes = canvas.panels(panels, 3.3, stacked=True)
  factors = sorted(
    {x for curves in panels.values() for c in curves for x in c.x}
  )
  for ax, curves in zip(axes, panels.values(), strict=True):
    width = 0.86 / len(curves)
    for i, curve in enumerate(curves):
      middle = (i - (len(curves) - 1) / 2) * width
      at = [factors.index(x) + middle for x in curve.x]
      color = curve.look.color
      ax.bar(at, curve.y, 0.88 * width, color=color, alpha=0.75, zorder=2)
      if curve.low is not None:
        ax.vlines(at, curve.low, curve.high, color=canvas.INK, lw=0.8, zorder=3)
      # A marker shows bars of no height, and tells models apart without color.
      ax.plot(
        at, curve.y, curve.look.marker, color=color, ms=4.5, mew=0, zorder=4
      )
    ax.grid(axis="x", visible=False)
    ax.set_xticks(range(len(factors)), [f"{x:g}×" for x in factors])
    if is_share:
      canvas.in_percent(ax)
    ax.set_ylabel(label)
  axes[-1].set_xlabel("length (multiple of the trained context)")
  return fig


@matplotlib.rc_context(canvas.STYLE)
def by_depth(
  shares: Mapping[float, Mapping[str, Mapping[int, float]]],
) -> Figure:
  """A score in 0..1 as a heat map, with a panel a length and a row a model.

  Args:
    shares: the score by length factor, label, and the middle of a fifth of the
      text in percent from its start, in which the answer is hidden.
  """
  labels = list(
    dict.fromkeys(name for rows in shares.values() for name in rows)
  )
  depths = sorted(
    {x for rows in shares.values() for r in rows.values() for x in r}
  )
  fig = Figure(
    figsize=(canvas.WIDTH_IN, 1.2 + 0.24 * len(labels)), layout="constrained"
  )
  axes = fig.subplots(1, len(shares), sharey=True, squeeze=False)[0]
  # With so few shades the SVG has no bitmap.
  shades = matplotlib.colormaps["cividis"].resampled(20)
  for ax, (factor, rows) in zip(axes, shares.items(), strict=True):
    grid = [
      [rows.get(name, {}).get(depth, math.nan) for depth in depths]
      for name in labels
    ]
    cells = ax.pcolormesh(
      np.ma.masked_invalid(grid), cmap=shades, vmin=0, vmax=1
    )
    ax.set_title(f"{factor:g}×")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.set_xticks([])
    for side in ax.spines.values():
      side.set_visible(False)
  axes[0].invert_yaxis()
  axes[0].set_yticks(np.arange(len(labels)) + 0.5, labels)
  fig.supxlabel("where in the text it is hidden: start to end", fontsize=9)
  fig.colorbar(
    cells, ax=list(axes), format=ticker.PercentFormatter(1), pad=0.01, aspect=12
  ).outline.set_visible(False)
  return fig


def _cut_off_far_above(ax):
  """Ends the y axis where far higher lines would flatten the others."""
  shown = [
    y
    for line in ax.lines
    for y in line.get_ydata()
    if len(line.get_ydata()) > 2
  ]
  shown = [y for y in shown if math.isfinite(y)]
  if shown and max(shown) > (top := OFF_THE_TOP * min(shown)):
    ax.set_ylim(top=top)


def _by_half_octaves(curve, origin):
  """Returns the curve averaged from origin * 2^(k/2) to the next, for all k."""
  x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
  octaves = np.floor(2 * np.log2(np.maximum(x, 1) / origin))
  parts = [octaves == octave for octave in np.unique(octaves)]
  return Curve(
    curve.look,
    [x[part].mean() for part in parts],
    [y[part].mean() for part in parts],
  )
