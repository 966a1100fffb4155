"""The project's plots: each function returns a matplotlib `Figure`.

Nothing here keeps or changes global plotting state: no pyplot, and rcParams
only within a call. Figures stand on white; `svg` returns them for a web page,
where they take the page's text colour and background.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import math
import re

import matplotlib
from matplotlib import figure as figures
from matplotlib import lines, ticker
import numpy as np

from drope_jax.analysis import frequencies, palette

Figure = figures.Figure

_INK = "#1b1f24"  # `svg` turns exactly this colour into the page's own
_FAINT = "#8a9099"
_STYLE = {
  "axes.edgecolor": _FAINT,
  "axes.facecolor": "none",
  "axes.grid": True,
  "axes.labelcolor": _INK,
  "axes.labelsize": 9,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 9.5,
  "axes.titleweight": "bold",
  "axes.titlecolor": _INK,
  "font.size": 9,
  "grid.alpha": 0.25,
  "grid.color": _FAINT,
  "grid.linewidth": 0.6,
  "legend.fontsize": 9,
  "legend.frameon": False,
  "legend.handlelength": 2.6,
  "lines.linewidth": 1.5,
  "lines.markersize": 5,
  "svg.fonttype": "none",
  "text.color": _INK,
  "xtick.color": _FAINT,
  "xtick.labelcolor": _INK,
  "xtick.labelsize": 8.5,
  "ytick.color": _FAINT,
  "ytick.labelcolor": _INK,
  "ytick.labelsize": 8.5,
}
_WIDTH_IN = 7.2


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of a plot: points (x, y), and the interval of each if known.

  Raises:
    ValueError: the sequences differ in length.
  """

  look: palette.Look
  x: Sequence[float]
  y: Sequence[float]
  low: Sequence[float] | None = None
  high: Sequence[float] | None = None

  def __post_init__(self):
    lengths = {
      len(values)
      for values in (self.x, self.y, self.low, self.high)
      if values is not None
    }
    if len(lengths) != 1:
      raise ValueError(
        f"Curve {self.look.label!r} needs as many x as y, low and high, got "
        f"lengths {sorted(lengths)}. Pass one value a point."
      )


@matplotlib.rc_context(_STYLE)
def recovery(
  curves: Sequence[Curve],
  *,
  base_loss: float | None = None,
  dropped_loss: float | None = None,
  log_x: bool = False,
) -> Figure:
  """Loss against recalibration tokens, on its way back to the base's.

  Args:
    curves: x in tokens since the drop, y in nats a token; smoothed for show.
    base_loss: the base's, at the same context; a horizontal line.
    dropped_loss: right after the drop, before any training; a dot at 0 (on a
      log axis, which has no 0, a horizontal line).
    log_x: tokens on a log axis.
  """
  fig, ax = _single(3.5)
  smooth = [_thinned(curve, log_x) for curve in curves]
  ends = _solid_lines(ax, smooth)
  if log_x:
    ax.set_xscale("log")
  else:
    ax.set_xlim(left=0)
  if dropped_loss is not None and log_x:
    ends.append(_level(ax, dropped_loss, "dropped, untrained"))
  elif dropped_loss is not None:
    ax.plot(0, dropped_loss, "o", color=palette.DROPE.colour, clip_on=False)
    ax.annotate(
      f"positions dropped: {dropped_loss:.2f}",
      (0, dropped_loss),
      xytext=(9, -3),
      textcoords="offset points",
    )
  if base_loss is not None:
    ends.append(_level(ax, base_loss, "base"))
  ax.margins(y=0.08)
  _label_ends(ax, ends)
  ax.xaxis.set_major_formatter(_TOKENS)
  ax.set_xlabel("recalibration tokens")
  ax.set_ylabel("loss (nats per token)")
  return fig


@matplotlib.rc_context(_STYLE)
def training(
  curves: Sequence[Curve], *, drops: Mapping[str, float] | None = None
) -> Figure:
  """Training loss of several runs against tokens (the paper's Figure 2).

  Args:
    curves: x in tokens, y in nats a token; smoothed for show.
    drops: label of a curve to the tokens at which its positions were dropped.
  """
  fig, ax = _single(3.7)
  smooth = [_thinned(curve) for curve in curves]
  ends = _solid_lines(ax, smooth)
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
  # The first tenth, where all fall alike, would flatten the rest.
  later = [y for curve in smooth for y in curve.y[len(curve.y) // 10 :]]
  later = [y for y in later if math.isfinite(y)]
  if later:
    margin = 0.06 * (max(later) - min(later) or 1)
    ax.set_ylim(min(later) - margin, max(later) + margin)
  ax.set_xlim(left=0)
  ax.xaxis.set_major_formatter(_TOKENS)
  _label_ends(ax, ends)
  ax.set_xlabel("training tokens")
  ax.set_ylabel("loss (nats per token)")
  return fig


@matplotlib.rc_context(_STYLE)
def loss_by_position(
  panels: Mapping[str, Sequence[Curve]], *, context_tokens: int
) -> Figure:
  """Loss against the position of the token, the trained context marked.

  Args:
    panels: title to curves; x in tokens from the start, y in nats a token;
      averaged over half octaves, none across the trained context's end.
    context_tokens: the length the models were trained at.
  """
  fig, axes = _panels(panels, 3.7)
  for ax, curves in zip(axes, panels.values(), strict=True):
    positions = [x for curve in curves for x in curve.x]
    _doublings(ax, positions, _POSITIONS)
    ax.axvline(context_tokens, color=_INK, lw=0.8, ls=":")
    ax.annotate(
      "trained ",
      (context_tokens, 0.99),
      xycoords=("data", "axes fraction"),
      ha="right",
      va="top",
      fontsize=8,
    )
    for curve in curves:
      _line(ax, _by_half_octaves(curve, context_tokens))
    ax.set_xlabel("position in the document (tokens)")
  axes[0].set_ylabel("loss (nats per token)")
  return fig


@matplotlib.rc_context(_STYLE)
def accuracy_by_factor(
  panels: Mapping[str, Sequence[Curve]], *, label: str = "retrieved"
) -> Figure:
  """A score in 0..1 against the length factor, with its 95% intervals.

  Args:
    panels: title to curves; x is the length as a multiple of the trained one.
    label: what is scored, for the y axis.
  """
  fig, axes = _panels(panels, 3.5)
  for ax, curves in zip(axes, panels.values(), strict=True):
    _doublings(ax, [x for curve in curves for x in curve.x], _FACTORS)
    for i, curve in enumerate(curves):
      # Neighbours stand side by side, or equal scores would hide each other.
      nudge = 1.035 ** (i - (len(curves) - 1) / 2)
      shifted = dataclasses.replace(curve, x=[x * nudge for x in curve.x])
      _line(ax, shifted, bars=True)
    ax.set_xlabel("length (multiple of the trained context)")
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1))
  axes[0].set_ylabel(label)
  return fig


@matplotlib.rc_context(_STYLE)
def frequency_scaling(
  scalings: Sequence[frequencies.Scaling], pairs: frequencies.Pairs
) -> Figure:
  """gamma, the factor put on each rotary pair's frequency, by pair.

  Marks the pairs that turn 32 times and once over the trained context, where
  YaRN's ramp begins and ends.
  """
  fig, ax = _single(3.3)
  index = range(len(pairs.omega_F))
  looks = palette.looks([("base", s.method) for s in scalings])
  curves = [Curve(looks["base", s.method], index, s.gamma_F) for s in scalings]
  for curve in curves:
    _line(ax, curve, markevery=max(len(index) // 16, 1))
  for turns in (32, 1):
    at = _crossing(pairs.turns_F, turns)
    if at is not None:
      ax.axvline(at, color=_INK, lw=0.8, ls=":")
      ax.annotate(
        f" {turns} turn{'s' if turns > 1 else ''}",
        (at, 1.0),
        xycoords=("data", "axes fraction"),
        va="bottom",
        ha="center",
        fontsize=8,
      )
  factor = max((s.factor for s in scalings), default=1.0)
  ax.set_ylim(0, 1.08)
  ax.axhline(1 / factor, color=_INK, lw=0.8, ls=":", zorder=1)
  _at_left(ax, 1 / factor, f"1/{factor:g}")
  ax.set_xlabel("rotary pair (fast to slow)")
  ax.set_ylabel("frequency scaling γ = ω′/ω")
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  ax.legend(loc="upper right")
  return fig


@matplotlib.rc_context(_STYLE)
def damage(report) -> Figure:
  """Q and k RMS, entropy and largest logit by layer, before and after.

  Args:
    report: a `damage.Damage`.
  """
  before = _renamed(palette.ROPE, "before")
  after = _renamed(palette.DROPE, "after")
  fig = Figure(figsize=(_WIDTH_IN, 4.6), layout="constrained")
  axes = fig.subplots(2, 2, sharex=True)
  names = {
    "query_rms_N": "query RMS",
    "key_rms_N": "key RMS",
    "entropy_N": "attention entropy (nats)",
    "max_logit_N": "largest attention logit",
  }
  for ax, (field, title) in zip(axes.flat, names.items(), strict=True):
    for look, side in ((before, report.before), (after, report.after)):
      y = getattr(side, field)
      _line(ax, Curve(look, range(len(y)), y))
    if field == "entropy_N":
      ax.axhline(report.before.uniform_entropy, color=_INK, lw=0.9, ls=":")
      _at_left(ax, report.before.uniform_entropy, "uniform")
      ax.margins(y=0.16)
    ax.set_title(title)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  for ax in axes[1]:
    ax.set_xlabel("layer")
  _legend(fig, axes.flat[0])
  return fig


def svg(fig: Figure, prefix: str = "plot") -> str:
  """Returns the figure as SVG to stand inside a page's HTML.

  Text and axes take the page's text colour, the background is transparent, and
  the size follows the space it is given.

  Args:
    prefix: put before every id, so that figures of one page do not collide.
  """
  out = io.StringIO()
  # A fixed salt: the same figure gives the same bytes.
  with matplotlib.rc_context(_STYLE | {"svg.hashsalt": prefix}):
    fig.savefig(out, format="svg", facecolor="none", metadata={"Date": None})
  text = out.getvalue()
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
  text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
  text = re.sub(r'( id="|url\(#|href="#)', rf"\1{prefix}-", text)
  text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
  return text.replace(_INK, "currentColor")


def _single(height_in):
  fig = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
  return fig, fig.subplots()


def _panels(panels, height_in):
  """One axis a panel, side by side on one y, under one legend."""
  if not panels:
    raise ValueError(
      "A plot needs at least one panel, got none. Pass {title: curves}."
    )
  fig = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
  axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  shown = {}
  for ax, (title, curves) in zip(axes, panels.items(), strict=True):
    ax.set_title(title)
    shown |= {curve.look.label: curve.look for curve in curves}
  handles = [
    lines.Line2D([], [], label=label, **_kwargs(look))
    for label, look in shown.items()
  ]
  fig.legend(
    handles=handles, loc="outside upper left", ncols=min(len(handles), 4)
  )
  return fig, axes


def _legend(fig, ax):
  fig.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=4)


def _kwargs(look):
  return {
    "color": look.colour,
    "linestyle": look.dash,
    "linewidth": 2.2 if look.strong else 1.4,
    "marker": look.marker,
    "markeredgewidth": 0,
    "zorder": 3 if look.strong else 2,
  }


def _line(ax, curve, bars=False, **changes):
  kwargs = _kwargs(curve.look) | changes
  ax.plot(curve.x, curve.y, label=curve.look.label, **kwargs)
  if bars and curve.low is not None:
    ax.vlines(
      curve.x, curve.low, curve.high, color=curve.look.colour, lw=1, alpha=0.7
    )


def _solid_lines(ax, curves):
  """Draws lines to be named at their ends, and returns those names."""
  for curve in curves:
    _line(ax, curve, marker="", linestyle="-")
  return [
    (curve.y[-1], curve.look.label, curve.look.colour)
    for curve in curves
    if len(curve.y)
  ]


def _level(ax, y, label):
  """Draws a horizontal line, and returns its name for `_label_ends`."""
  ax.axhline(y, color=_INK, lw=0.9, ls=":")
  return y, f"{label} {y:.2f}", _INK


def _at_left(ax, y, label):
  ax.annotate(
    label,
    (0, y),
    xycoords=("axes fraction", "data"),
    xytext=(3, 3),
    textcoords="offset points",
    va="bottom",
    fontsize=8,
  )


def _label_ends(ax, ends):
  """Writes (y, text, colour) at the right edge, apart from each other."""
  low, high = ax.get_ylim()
  placed = -math.inf
  for y, text, colour in sorted(ends):
    placed = max(y, placed + 0.065 * (high - low))
    ax.annotate(
      text,
      (1, placed),
      xycoords=("axes fraction", "data"),
      xytext=(5, 0),
      textcoords="offset points",
      va="center",
      color=colour,
      fontweight="normal" if colour == _INK else "bold",
    )


def _doublings(ax, x, formatter):
  """A log2 axis with a tick at every doubling from the least to the most."""
  if not x:
    return
  ax.set_xscale("log", base=2)
  ends = round(math.log2(min(x))), math.ceil(math.log2(max(x)) - 1e-9)
  ax.set_xticks([2.0**i for i in range(ends[0], ends[1] + 1)])
  ax.minorticks_off()
  ax.xaxis.set_major_formatter(formatter)


def _thinned(curve, log_x=False, points=90):
  """The curve averaged over equal stretches of its axis, one point each."""
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
  """The curve averaged between origin * 2^(k/2) and the next, for all k."""
  x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
  octaves = np.floor(2 * np.log2(np.maximum(x, 1) / origin))
  parts = [octaves == octave for octave in np.unique(octaves)]
  return Curve(
    curve.look,
    [x[part].mean() for part in parts],
    [y[part].mean() for part in parts],
  )


def _crossing(turns_F, turns):
  """The fractional pair index at which `turns_F`, falling, passes `turns`."""
  if not turns_F[-1] <= turns <= turns_F[0]:
    return None
  log_turns = np.log(turns_F)[::-1]
  return float(
    np.interp(np.log(turns), log_turns, np.arange(len(turns_F))[::-1])
  )


def _renamed(look, label):
  return dataclasses.replace(look, label=label)


@ticker.FuncFormatter
def _TOKENS(value, _):
  for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
    if abs(value) >= size:
      return f"{value / size:g} {unit}"
  return f"{value:g}"


@ticker.FuncFormatter
def _POSITIONS(value, _):
  return f"{value:g}" if value < 1024 else f"{value / 1024:g}k"


@ticker.FuncFormatter
def _FACTORS(value, _):
  return f"{value:g}×"
