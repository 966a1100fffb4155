"""Plots of what positions do in a model, and what dropping them costs."""

from collections.abc import Sequence

import matplotlib
import numpy as np

from drope_jax.analysis import canvas, frequencies, palette
from drope_jax.analysis import damage as damages
from drope_jax.analysis import pair_damage as pair_damages
from drope_jax.analysis.canvas import Curve, Figure


@matplotlib.rc_context(canvas.STYLE)
def frequency_scaling(
  scalings: Sequence[frequencies.Scaling], pairs: frequencies.Pairs
) -> Figure:
  """gamma, the factor put on each rotary pair's frequency, by pair.

  Marks the pairs that complete 32 rotations and one in the trained context,
  where YaRN's ramp begins and ends.
  """
  fig, ax = canvas.single(3.3)
  index = range(len(pairs.omega_F))
  looks = palette.looks([("base", s.method) for s in scalings])
  curves = [Curve(looks["base", s.method], index, s.gamma_F) for s in scalings]
  for curve in curves:
    canvas.line(ax, curve, markevery=max(len(index) // 16, 1))
  mark_rotations(ax, pairs.rotations_F, (32, 1))
  factor = max((s.factor for s in scalings), default=1.0)
  ax.set_ylim(0, 1.08)
  ax.axhline(1 / factor, color=canvas.INK, lw=0.8, ls=":", zorder=1)
  canvas.at_left(ax, 1 / factor, f"1/{factor:g}")
  ax.set_xlabel("rotary pair (fast to slow)")
  ax.set_ylabel("frequency scaling γ = ω′/ω")
  canvas.in_whole_numbers(ax)
  ax.legend(loc="upper right")
  return fig


@matplotlib.rc_context(canvas.STYLE)
def damage(report: damages.Damage) -> Figure:
  """Each of `damage.BY_LAYER` by layer, before and after a surgery."""
  before = palette.renamed(palette.BASE, "before")
  after = palette.renamed(palette.DROPPED, "after")
  fig = Figure(figsize=(canvas.WIDTH_IN, 4.6), layout="constrained")
  axes = fig.subplots(2, 2, sharex=True)
  for ax, (title, field) in zip(
    axes.flat, damages.BY_LAYER.items(), strict=True
  ):
    for look, side in ((before, report.before), (after, report.after)):
      y = getattr(side, field)
      canvas.line(ax, Curve(look, range(len(y)), y))
    if field == "entropy_N":
      ax.axhline(
        report.before.uniform_entropy, color=canvas.INK, lw=0.9, ls=":"
      )
      canvas.at_left(ax, report.before.uniform_entropy, "uniform")
      ax.margins(y=0.16)
    ax.set_title(title)
    canvas.in_whole_numbers(ax)
  for ax in axes[1]:
    ax.set_xlabel("layer")
  canvas.legend(fig, axes.flat[0])
  return fig


@matplotlib.rc_context(canvas.STYLE)
def pair_damage(pairs: pair_damages.PairDamage) -> Figure:
  """The loss that dropping each rotary pair costs, and which were dropped."""
  fig, ax = canvas.single(3.0)
  index = np.arange(len(pairs.cost_F))
  kept = index < pairs.kept
  for look, chosen in (
    (palette.renamed(palette.BASE, "kept"), kept),
    (palette.renamed(palette.DROPPED, "dropped"), ~kept),
  ):
    if chosen.any():
      ax.bar(
        index[chosen],
        np.asarray(pairs.cost_F)[chosen],
        color=look.color,
        label=look.label,
      )
  mark_rotations(ax, np.asarray(pairs.rotations_F), (1,))
  ax.axhline(0, color=canvas.INK, lw=0.8)
  ax.set_xlabel("rotary pair (fast to slow)")
  ax.set_ylabel("loss it alone is worth (nats)")
  canvas.in_whole_numbers(ax)
  canvas.legend(fig, ax)
  return fig


def mark_rotations(ax, rotations_F, marks):
  """Marks the pairs that complete these numbers of rotations in the context."""
  for rotations in marks:
    at = _crossing(rotations_F, rotations)
    if at is not None:
      ax.axvline(at, color=canvas.INK, lw=0.8, ls=":")
      ax.annotate(
        f" {rotations} rotation{'s' if rotations > 1 else ''}",
        (at, 1.0),
        xycoords=("data", "axes fraction"),
        va="bottom",
        ha="center",
        fontsize=8,
      )


def _crossing(rotations_F, rotations):
  """Returns the fractional pair index with this number of rotations."""
  if not rotations_F[-1] <= rotations <= rotations_F[0]:
    return None
  index_F = np.flatnonzero(rotations_F)[::-1]  # Those that stand have none.
  rising_F = np.log(rotations_F[index_F])
  return float(np.interp(np.log(rotations), rising_F, index_F))
