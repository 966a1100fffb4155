"""The project's plots: each function returns a matplotlib `Figure`.

Figures stand on white; `canvas.svg` returns them for a web page, where they
take the page's text colour and background.
"""

from collections.abc import Mapping, Sequence
import math

import matplotlib
from matplotlib import ticker
import numpy as np

from drope_jax.analysis import canvas, frequencies, palette
from drope_jax.analysis import damage as damages
from drope_jax.analysis import pair_damage as pair_damages
from drope_jax.analysis.canvas import Curve, Figure

OFF_THE_TOP = 1.6
"""The axis of a loss by position ends at this multiple of the lowest loss."""


@matplotlib.rc_context(canvas.STYLE)
def recovery(
  curves: Sequence[Curve],
  *,
  levels: Mapping[str, float] | None = None,
  dropped_loss: float | None = None,
  log_x: bool = False,
) -> Figure:
  """Loss against recalibration tokens, as it returns to the base's.

  Args:
    curves: x in tokens since the drop, y in nats a token; they are smoothed.
    levels: losses of other models at the same context, by name. Each is a
      horizontal line in the colour of its model.
    dropped_loss: the loss right after the drop, before any training; another
      horizontal line.
    log_x: whether the axis of tokens is logarithmic.
  """
  fig, ax = canvas.single(3.5)
  smooth = [_thinned(curve, log_x) for curve in curves]
  ends = canvas.named_lines(ax, smooth)
  if log_x:
    ax.set_xscale("log")
  else:
    ax.set_xlim(left=0)
  if dropped_loss is not None:
    ends.append(canvas.level(ax, dropped_loss, "dropped, untrained"))
  levels = levels or {}
  looks = palette.looks((name, "model") for name in levels)
  for (name, loss), look in zip(levels.items(), looks.values(), strict=True):
    ends.append(canvas.level(ax, loss, name, look.colour))
  ax.margins(y=0.08)
  canvas.label_ends(ax, ends)
  ax.xaxis.set_major_formatter(canvas.TOKENS)
  ax.set_xlabel("recalibration tokens")
  ax.set_ylabel("loss (nats per token)")
  return fig


@matplotlib.rc_context(canvas.STYLE)
def training(
  curves: Sequence[Curve], *, drops: Mapping[str, float] | None = None
) -> Figure:
  """Training loss of several runs against tokens (the paper's Figure 2).

  Args:
    curves: x in tokens, y in nats a token; they are smoothed.
    drops: by the label of a curve, the tokens at which positions were dropped.
  """
  fig, ax = canvas.single(3.7)
  smooth = [_thinned(curve) for curve in curves]
  ends = canvas.named_lines(ax, smooth)
  for curve in smooth:
    x_drop = (drops or {}).get(curve.look.label)
    if x_drop is not None:
      ax.axvline(x_drop, color=curve.look.colour, lw=1, ls=":")
      ax.annotate(
        "positions dropped ",
        (x_drop, 0.97),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="top",
        color=curve.look.colour,
      )
  # The first tenth, where all curves fall, would flatten the rest.
  later = [y for curve in smooth for y in curve.y[len(curve.y) // 10 :]]
  later = [y for y in later if math.isfinite(y)]
  if later:
    margin = 0.06 * (max(later) - min(later) or 1)
    ax.set_ylim(min(later) - margin, max(later) + margin)
  ax.set_xlim(left=0)
  ax.xaxis.set_major_formatter(canvas.TOKENS)
  canvas.label_ends(ax, ends)
  ax.set_xlabel("training tokens")
  ax.set_ylabel("loss (nats per token)")
  return fig


@matplotlib.rc_context(canvas.STYLE)
def score_by_training(
  curves: Sequence[Curve], *, label: str, is_share: bool
) -> Figure:
  """A score against training tokens (the paper's Figures 9 and 10).

  Args:
    curves: x in tokens.
    label: what is scored, for the y axis.
    is_share: whether it is a share in 0 to 1, shown in percent.
  """
  fig, ax = canvas.single(3.5)
  canvas.label_ends(ax, canvas.named_lines(ax, curves))
  ax.set_xlim(left=0)
  ax.xaxis.set_major_formatter(canvas.TOKENS)
  if is_share:
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1))
  ax.set_xlabel("tokens")
  ax.set_ylabel(label)
  return fig


@matplotlib.rc_context(canvas.STYLE)
def score_by_tokens(
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
def score_by_factor(
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
      colour = curve.look.colour
      ax.bar(at, curve.y, 0.88 * width, color=colour, alpha=0.75, zorder=2)
      if curve.low is not None:
        ax.vlines(at, curve.low, curve.high, color=canvas.INK, lw=0.8, zorder=3)
      # A marker shows bars of no height, and tells models apart without colour.
      ax.plot(
        at, curve.y, curve.look.marker, color=colour, ms=4.5, mew=0, zorder=4
      )
    ax.grid(axis="x", visible=False)
    ax.set_xticks(range(len(factors)), [f"{x:g}×" for x in factors])
    if is_share:
      ax.set_ylim(-0.03, 1.03)
      ax.yaxis.set_major_formatter(ticker.PercentFormatter(1))
    ax.set_ylabel(label)
  axes[-1].set_xlabel("length (multiple of the trained context)")
  return fig


@matplotlib.rc_context(canvas.STYLE)
def score_by_depth(
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
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
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
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
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
        color=look.colour,
        label=look.label,
      )
  mark_rotations(ax, np.asarray(pairs.rotations_F), (1,))
  ax.axhline(0, color=canvas.INK, lw=0.8)
  ax.set_xlabel("rotary pair (fast to slow)")
  ax.set_ylabel("loss it alone is worth (nats)")
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  canvas.legend(fig, ax)
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


def _thinned(curve, log_x=False, points=90):
  """Returns the curve averaged over equal parts of its axis, a point each."""
  x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
  along = np.log(np.maximum(x, 1)) if log_x else x
  if len(x) <= points:
    return curve
  edges = np.linspace(along[0], along[-1], points + 1)[1:-1]
  parts = np.split(np.arange(len(x)), np.searchsorted(along, edges))
  parts = [part for part in parts if len(part)]
  return Curve(
    curve.look,
    [x[part].mean() for part in parts],
    [y[part].mean() for part in parts],
  )


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


def _crossing(rotations_F, rotations):
  """Returns the fractional pair index with this number of rotations."""
  if not rotations_F[-1] <= rotations <= rotations_F[0]:
    return None
  rising_F, index_F = np.log(rotations_F)[::-1], np.arange(len(rotations_F))
  return float(np.interp(np.log(rotations), rising_F, index_F[::-1]))
