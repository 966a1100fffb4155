"""What every plot of the project is drawn with: style, lines, labels, SVG.

Nothing here keeps or changes global plotting state: no pyplot, and rcParams
only within a call.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import math
import re
from typing import Any

import matplotlib
from matplotlib import axes, lines, ticker
from matplotlib import figure as figures

from drope_jax.analysis import palette

Figure = figures.Figure

INK = "#1b1f24"  # `svg` turns exactly this colour into the page's own
_FAINT = "#8a9099"
STYLE = {
  "axes.edgecolor": _FAINT,
  "axes.facecolor": "none",
  "axes.grid": True,
  "axes.labelcolor": INK,
  "axes.labelsize": 9,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 9.5,
  "axes.titleweight": "bold",
  "axes.titlecolor": INK,
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
  "text.color": INK,
  "xtick.color": _FAINT,
  "xtick.labelcolor": INK,
  "xtick.labelsize": 8.5,
  "ytick.color": _FAINT,
  "ytick.labelcolor": INK,
  "ytick.labelsize": 8.5,
}
WIDTH_IN = 7.2


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


def svg(fig: Figure, prefix: str = "plot") -> str:
  """Returns the figure as SVG to stand inside a page's HTML.

  Text and axes take the page's text colour, the background is transparent, and
  the size follows the space it is given.

  Args:
    prefix: put before every id, so that figures of one page do not collide.
  """
  out = io.StringIO()
  # A fixed salt: the same figure gives the same bytes.
  with matplotlib.rc_context(STYLE | {"svg.hashsalt": prefix}):
    fig.savefig(out, format="svg", facecolor="none", metadata={"Date": None})
  text = out.getvalue()
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
  text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
  text = re.sub(r'( id="|url\(#|href="#)', rf"\1{prefix}-", text)
  text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
  return text.replace(INK, "currentColor")


def single(height_in: float) -> tuple[Figure, axes.Axes]:
  """Returns a figure of one axis."""
  fig = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
  return fig, fig.subplots()


def panels(
  panels: Mapping[str, Sequence[Curve]], height_in: float
) -> tuple[Figure, Sequence[axes.Axes]]:
  """Returns one axis a panel, side by side on one y, under one legend.

  Raises:
    ValueError: there is no panel.
  """
  if not panels:
    raise ValueError(
      "A plot needs at least one panel, got none. Pass {title: curves}."
    )
  fig = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
  row = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  shown = {}
  for ax, (title, curves) in zip(row, panels.items(), strict=True):
    ax.set_title(title)
    shown |= {curve.look.label: curve.look for curve in curves}
  handles = [
    lines.Line2D([], [], label=label, **_kwargs(look))
    for label, look in shown.items()
  ]
  fig.legend(
    handles=handles, loc="outside upper left", ncols=min(len(handles), 4)
  )
  return fig, row


def legend(fig: Figure, ax: axes.Axes) -> None:
  """Puts the legend of one axis above the figure."""
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


def line(
  ax: axes.Axes, curve: Curve, bars: bool = False, **changes: Any
) -> None:
  """Draws a curve in its look, `changes` aside; with `bars`, its intervals."""
  kwargs = _kwargs(curve.look) | changes
  ax.plot(curve.x, curve.y, label=curve.look.label, **kwargs)
  if bars and curve.low is not None:
    ax.vlines(
      curve.x, curve.low, curve.high, color=curve.look.colour, lw=1, alpha=0.7
    )


End = tuple[float, str, str]
"""A line's name at its right end: y, text, colour."""


def solid_lines(ax: axes.Axes, curves: Sequence[Curve]) -> list[End]:
  """Draws lines to be named at their ends, and returns those names."""
  for curve in curves:
    line(ax, curve, marker="", linestyle="-")
  return [
    (curve.y[-1], curve.look.label, curve.look.colour)
    for curve in curves
    if len(curve.y)
  ]


def level(ax: axes.Axes, y: float, label: str) -> End:
  """Draws a horizontal line, and returns its name for `label_ends`."""
  ax.axhline(y, color=INK, lw=0.9, ls=":")
  return y, f"{label} {y:.2f}", INK


def at_left(ax: axes.Axes, y: float, label: str) -> None:
  """Writes a label on the y axis, inside the plot."""
  ax.annotate(
    label,
    (0, y),
    xycoords=("axes fraction", "data"),
    xytext=(3, 3),
    textcoords="offset points",
    va="bottom",
    fontsize=8,
  )


def label_ends(ax: axes.Axes, ends: Sequence[End]) -> None:
  """Writes the names at the right edge, apart from each other."""
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
      fontweight="normal" if colour == INK else "bold",
    )


def doublings(
  ax: axes.Axes, x: Sequence[float], formatter: ticker.Formatter
) -> None:
  """Makes x a log2 axis, a tick at every doubling from least to most."""
  if not x:
    return
  ax.set_xscale("log", base=2)
  ends = round(math.log2(min(x))), math.ceil(math.log2(max(x)) - 1e-9)
  ax.set_xticks([2.0**i for i in range(ends[0], ends[1] + 1)])
  ax.minorticks_off()
  ax.xaxis.set_major_formatter(formatter)


def _tokens(value, _):
  for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
    if abs(value) >= size:
      return f"{value / size:g} {unit}"
  return f"{value:g}"


def _positions(value, _):
  return f"{value:g}" if value < 1024 else f"{value / 1024:g}k"


def _factors(value, _):
  return f"{value:g}×"


TOKENS = ticker.FuncFormatter(_tokens)
POSITIONS = ticker.FuncFormatter(_positions)
FACTORS = ticker.FuncFormatter(_factors)
