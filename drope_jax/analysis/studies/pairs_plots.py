"""The plots of `pairs`, and of what scalings do to frequencies."""

from collections.abc import Sequence

import matplotlib
from matplotlib import ticker
import numpy as np

from drope_jax.analysis import canvas, frequencies, palette
from drope_jax.analysis.canvas import Curve, Figure
from drope_jax.analysis.plots import positions
from drope_jax.analysis.studies.pairs import Pairs


@matplotlib.rc_context(canvas.STYLE)
def scalings(
  found: Sequence[frequencies.Scaling], pairs: frequencies.Pairs
) -> Figure:
  """Each pair's factor of frequency, a panel for each s (Figures 6 and 11)."""
  looks = palette.looks(("base", scaling.method) for scaling in found)
  index = range(len(pairs.omega_F))
  panels: dict[str, list[Curve]] = {}
  for scaling in found:
    look = looks["base", scaling.method]
    panels.setdefault(f"s = {scaling.factor:g}", []).append(
      Curve(look, index, scaling.gamma_F)
    )
  fig, grid = canvas.panels(panels, 3.0)
  for ax, curves in zip(grid, panels.values(), strict=True):
    for curve in curves:
      canvas.line(ax, curve, markevery=max(len(index) // 8, 1))
    ax.set_ylim(0, 1.08)
    ax.set_xlabel("pair (fast to slow)")
    canvas.in_whole_numbers(ax)
  grid[0].set_ylabel("γ = ω′/ω")
  return fig


@matplotlib.rc_context(canvas.STYLE)
def costs(found: Pairs) -> Figure:
  """What removing or dividing each pair costs, with intervals."""
  fig = Figure(figsize=(canvas.WIDTH_IN, 4.6), layout="constrained")
  grid = fig.subplots(2, 1, sharex=True)
  changes = (
    ("removed", palette.renamed(palette.DROPPED, "removed")),
    (
      "divided",
      palette.renamed(palette.BASE, f"divided by {found.divisor:g}"),
    ),
  )
  x = np.arange(len(found.pairs))
  for ax, score in zip(grid, ("loss", "recall"), strict=True):
    for shift, (name, look) in zip((-0.2, 0.2), changes, strict=True):
      each = [getattr(pair, name) for pair in found.pairs]
      ax.bar(
        x + shift,
        [getattr(cost, score) for cost in each],
        0.38,
        color=look.color,
        label=look.label,
        alpha=0.75,
      )
      ends = [
        (getattr(cost, f"{score}_low"), getattr(cost, f"{score}_high"))
        for cost in each
      ]
      if None not in ends[0]:
        ax.vlines(x + shift, *zip(*ends, strict=True), color=canvas.INK, lw=0.8)
    ax.axhline(0, color=canvas.INK, lw=0.8)
    positions.mark_rotations(
      ax, np.asarray([pair.rotations for pair in found.pairs]), (1,)
    )
  grid[0].set_ylabel("loss rises by (nats)")
  grid[1].set_ylabel("retrieval falls by")
  grid[1].yaxis.set_major_formatter(ticker.PercentFormatter(1))
  grid[1].set_xlabel("rotary pair (fast to slow)")
  canvas.in_whole_numbers(grid[1])
  canvas.legend(fig, grid[0])
  return fig
