"""What all plots share: style, lines, labels and SVG output.

It keeps no global plotting state: it does not use pyplot, and sets rcParams
only within a call.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import math
import os
import re
from typing import Any, TypeAlias

import matplotlib
from matplotlib import axes, lines, ticker
from matplotlib import figure as figures
from matplotlib.text import Text

from drope_jax.analysis import palette

Figure: TypeAlias = figures.Figure

INK = palette.INK
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
NARROW_IN = 4.0
"""Width of a figure for a phone's screen; its text keeps its size."""
_HANDLE_IN, _CHARACTER_IN = 0.65, 0.07
"""Of a column of a legend: its sample and gaps, and a character of a label."""


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of a plot: points (x, y) and, if known, their intervals.

  Raises:
    ValueError: the sequences have different lengths.
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
        f"Curve {self.look.label!r} needs x, y, low and high of one length, "
        f"got lengths {sorted(lengths)}. Pass one value for each point."
      )


def svg(fig: Figure, prefix: str = "plot", narrow: bool = False) -> str:
  """Returns the figure as SVG for embedding in HTML.

  Text and axes have the page's text color, the background is transparent, and
  the width is that of the surrounding element.

  Args:
    fig: the figure.
    prefix: put before every id, so that ids of several figures on one page are
      different.
    narrow: use the layout for a narrow screen, with fewer legend columns.
  """
  out = io.StringIO()
  width_in, height_in = fig.get_size_inches()
  if narrow:
    _lay_out(fig, NARROW_IN, height_in + 0.3)
  # With a fixed salt, the same figure always gives the same bytes.
  with matplotlib.rc_context(STYLE | {"svg.hashsalt": prefix}):
    _write(fig, out, facecolor="none")
  if narrow:
    _lay_out(fig, width_in, height_in)
  text = out.getvalue()
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
  text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
  text = re.sub(r'( id="|url\(#|href="#)', rf"\1{prefix}-", text)
  text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
  return text.replace(INK, "currentColor")


def save(fig: Figure, path: os.PathLike) -> None:
  """Writes the figure as an SVG file, on white."""
  # The same figure gives the same bytes, and stays searchable text.
  with matplotlib.rc_context({"svg.hashsalt": "", "svg.fonttype": "none"}):
    _write(fig, path, facecolor="white")


def _write(fig, to, facecolor):
  for text in fig.findobj(Text):
    # Names may have dollar signs; an axis of powers writes its own labels.
    if text.get_text() and r"\mathdefault" not in text.get_text():
      text.set_parse_math(False)
  fig.savefig(to, format="svg", facecolor=facecolor, metadata={"Date": None})


@matplotlib.rc_context(STYLE)
def _lay_out(fig, width_in, height_in):
  """Sets a figure's size, and lays out its legends for it."""
  fig.set_size_inches(width_in, height_in)
  for legend in list(fig.legends):
    labels = [text.get_text() for text in legend.get_texts()]
    handles = legend.legend_handles
    legend.remove()
    _legend(fig, handles, labels)


def _legend(fig, handles, labels):
  longest = max(map(len, labels), default=0)
  room = int(fig.get_figwidth() / (_HANDLE_IN + _CHARACTER_IN * longest))
  fig.legend(
    handles,
    labels,
    loc="outside upper left",
    ncols=max(min(len(handles), room), 1),
  )


def single(height_in: float) -> tuple[Figure, axes.Axes]:
  """Returns a figure with one axis."""
  fig = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
  return fig, fig.subplots()


def panels(
  panels: Mapping[str, Sequence[Curve]], height_in: float, stacked: bool = False
) -> tuple[Figure, Sequence[axes.Axes]]:
  """Returns a figure and one axis per panel, with a shared y and one legend.

  Args:
    panels: curves to be drawn, by title.
    height_in: height of a row of panels.
    stacked: put panels below each other instead of side by side.

  Raises:
    ValueError: there is no panel.
  """
  if not panels:
    raise ValueError(
      "A plot needs at least one panel, got none. Pass {title: curves}."
    )
  rows, columns = (len(panels), 1) if stacked else (1, len(panels))
  fig = Figure(figsize=(WIDTH_IN, height_in * rows), layout="constrained")
  grid = fig.subplots(rows, columns, sharex=stacked, sharey=True, squeeze=False)
  axes_of_panels = list(grid.flat)
  shown: dict[str, palette.Look] = {}
  for ax, (title, curves) in zip(axes_of_panels, panels.items(), strict=True):
    ax.set_title(title)
    shown |= {curve.look.label: curve.look for curve in curves}
  handles = [
    lines.Line2D([], [], label=label, **_kwargs(look))
    for label, look in shown.items()
  ]
  _legend(fig, handles, list(shown))
  return fig, axes_of_panels


def legend(fig: Figure, ax: axes.Axes) -> None:
  """Puts the legend of one axis above the figure."""
  handles, labels = ax.get_legend_handles_labels()
  _legend(fig, handles, labels)


def _kwargs(look):
  return {
    "color": look.color,
    "linestyle": look.dash,
    "linewidth": 2.2 if look.strong else 1.4,
    "marker": look.marker,
    "markeredgewidth": 0,
    "zorder": 3 if look.strong else 2,
  }


def line(ax: axes.Axes, curve: Curve, **changes: Any) -> None:
  """Draws a curve with `changes` of its look, without its intervals."""
  kwargs = _kwargs(curve.look) | changes
  ax.plot(curve.x, curve.y, label=curve.look.label, **kwargs)


End = tuple[float, str, str]
"""The label at a line's right end: y, text, color."""


def named_lines(ax: axes.Axes, curves: Sequence[Curve]) -> list[End]:
  """Draws lines, and returns the labels for their ends."""
  for curve in curves:
    line(ax, curve, marker="")
  return [
    (curve.y[-1], curve.look.label, curve.look.color)
    for curve in curves
    if len(curve.y)
  ]


def level(ax: axes.Axes, y: float, label: str, color: str = INK) -> End:
  """Draws a horizontal line, and returns its label for `label_ends`."""
  ax.axhline(y, color=color, lw=1.1, ls=":")
  return y, f"{label} {y:.2f}", color


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
  """Writes labels at the right edge, so that they do not overlap.

  Those that would pass the top move down, and all move closer if there are more
  than the edge has room for.
  """
  low, high = ax.get_ylim()
  apart = min(0.065, 1 / max(len(ends) - 1, 1)) * (high - low)
  ends = sorted(ends)
  places: list[float] = []
  for y, _, _ in ends:
    places.append(max(y, places[-1] + apart) if places else y)
  most = high
  for i in reversed(range(len(places))):
    places[i] = min(places[i], most)
    most = places[i] - apart
  for placed, (_, text, color) in zip(places, ends, strict=True):
    ax.annotate(
      text,
      (1, placed),
      xycoords=("axes fraction", "data"),
      xytext=(5, 0),
      textcoords="offset points",
      va="center",
      color=color,
      fontweight="normal" if color == INK else "bold",
    )


def doublings(
  ax: axes.Axes, x: Sequence[float], formatter: ticker.Formatter
) -> None:
  """Makes x a log2 axis, with a tick at every doubling in its range."""
  if not x:
    return
  ax.set_xscale("log", base=2)
  ends = round(math.log2(min(x))), math.ceil(math.log2(max(x)) - 1e-9)
  ax.set_xticks([2.0**i for i in range(ends[0], ends[1] + 1)])
  ax.minorticks_off()
  ax.xaxis.set_major_formatter(formatter)


def in_whole_numbers(ax: axes.Axes) -> None:
  """Puts x's ticks at whole numbers, as of layers, heads or pairs."""
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def in_percent(ax: axes.Axes) -> None:
  """Makes y an axis of shares in 0 to 1, shown in percent."""
  ax.set_ylim(-0.03, 1.03)
  ax.yaxis.set_major_formatter(ticker.PercentFormatter(1))


def _tokens(value, _):
  for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
    if abs(value) >= size:
      return f"{value / size:g} {unit}"
  return f"{value:g}"


def _positions(value, _):
  return f"{value:g}" if value < 1024 else f"{value / 1024:g}k"


TOKENS = ticker.FuncFormatter(_tokens)
POSITIONS = ticker.FuncFormatter(_positions)
