"""Plots against the tokens of a training."""

from collections.abc import Mapping, Sequence
import math

import matplotlib
import numpy as np

from drope_jax.analysis import canvas, palette
from drope_jax.analysis.canvas import Curve, Figure

_POINTS = 90
"""Of a curve, at most."""


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
      horizontal line in the color of its model.
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
    ends.append(canvas.level(ax, loss, name, look.color))
  ax.margins(y=0.08)
  canvas.label_ends(ax, ends)
  ax.xaxis.set_major_formatter(canvas.TOKENS)
  ax.set_xlabel("recalibration tokens")
  ax.set_ylabel("loss (nats per token)")
  return fig


@matplotlib.rc_context(canvas.STYLE)
def loss(
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
      ax.axvline(x_drop, color=curve.look.color, lw=1, ls=":")
      ax.annotate(
        "positions dropped ",
        (x_drop, 0.97),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="top",
        color=curve.look.color,
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
def score(curves: Sequence[Curve], *, label: str, is_share: bool) -> Figure:
  """A score against training tokens (the paper's Figures 9 and 10).

  Args:
    curves: x in tokens.
    label: what is scored, for the y axis.
    is_share: whether it is a share in 0 to 1, shown in percent.
  """
  fig, ax = canvas.single(3.5)
  ends = canvas.named_lines(ax, curves)
  ax.set_xlim(left=0)
  ax.xaxis.set_major_formatter(canvas.TOKENS)
  if is_share:
    canvas.in_percent(ax)
  canvas.label_ends(ax, ends)
  ax.set_xlabel("tokens")
  ax.set_ylabel(label)
  return fig


def _thinned(curve, log_x=False):
  """Returns the curve averaged over equal parts of its axis, a point each."""
  x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
  along = np.log(np.maximum(x, 1)) if log_x else x
  if len(x) <= _POINTS:
    return curve
  edges = np.linspace(along[0], along[-1], _POINTS + 1)[1:-1]
  parts = np.split(np.arange(len(x)), np.searchsorted(along, edges))
  parts = [part for part in parts if len(part)]
  return Curve(
    curve.look,
    [x[part].mean() for part in parts],
    [y[part].mean() for part in parts],
  )
