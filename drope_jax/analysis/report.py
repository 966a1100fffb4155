"""One self-contained HTML page: text, tables, plots; nothing is fetched.

A page is a list of sections, each a list of blocks. The page needs no network,
and a script only where a figure has controls. It follows the reader's light or
dark setting, and prints.
"""

from collections.abc import Sequence
import dataclasses
import html
import os
import pathlib

from drope_jax.analysis import canvas, stylesheet
from drope_jax.data import whole_file

_LONGEST_LINE = 30
"""Characters of a table's cell that are kept on one line."""


@dataclasses.dataclass(frozen=True)
class Text:
  """A paragraph of plain words."""

  text: str


@dataclasses.dataclass(frozen=True)
class Facts:
  """Figures side by side, each as (label, value, note)."""

  items: Sequence[tuple[str, str, str]]


@dataclasses.dataclass(frozen=True)
class Interval:
  """A table cell: a value, and the ends of its 95% interval, if it has one.

  Attributes:
    value, low, high: no ends where there is no interval.
    decimals: shown.
    beside: the same in another unit, or "".
  """

  value: float
  low: float | None
  high: float | None
  decimals: int = 2
  beside: str = ""


Cell = str | int | float | Interval | None


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows under named columns; numbers are right-aligned, None is a dash.

  Raises:
    ValueError: a row has another number of cells than there are columns.
  """

  columns: Sequence[str]
  rows: Sequence[Sequence[Cell]]
  caption: str = ""

  def __post_init__(self):
    for row in self.rows:
      if len(row) != len(self.columns):
        raise ValueError(
          f"Table needs {len(self.columns)} cells in each row, got "
          f"{len(row)} in {row!r}. Pass None for an empty cell."
        )


@dataclasses.dataclass(frozen=True)
class Plot:
  """A figure with its caption.

  A page has it twice, for wide and for narrow screens, and shows one of them.
  """

  figure: canvas.Figure
  caption: str


@dataclasses.dataclass(frozen=True)
class Interactive:
  """A figure with controls, and its caption.

  Attributes:
    html: as it stands on the page: controls, what they change, and a script
      that finds its figure by itself.
    caption: below it.
  """

  html: str
  caption: str


@dataclasses.dataclass(frozen=True)
class Code:
  """Text in a fixed-width font, its line breaks kept."""

  text: str


@dataclasses.dataclass(frozen=True)
class Quote:
  """Text that a model wrote or read, and its source."""

  text: str
  source: str = ""


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """Tested claims: (claim, [(model, verdict, evidence), ...]).

  A verdict is "shown", "not told apart" or "not shown".
  """

  items: Sequence[tuple[str, Sequence[tuple[str, str, str]]]]


@dataclasses.dataclass(frozen=True)
class Details:
  """Blocks that are shown when their title is opened."""

  title: str
  blocks: Sequence["Block"]


Block = (
  Text | Facts | Table | Plot | Interactive | Code | Quote | Verdicts | Details
)


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading and the blocks under it."""

  title: str
  blocks: Sequence[Block]


def write(
  path: str | os.PathLike, sections: Sequence[Section], title: str = "DroPE"
) -> None:
  """Writes the page; a page that is there is replaced once this is whole."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  whole_file.write(path, render(sections, title).encode())


def render(sections: Sequence[Section], title: str = "DroPE") -> str:
  """Returns the page as HTML; the first section is its headline."""
  ids = (f"p{i}" for i in range(1_000_000))
  body = "\n".join(
    _section(section, "h1" if i == 0 else "h2", ids)
    for i, section in enumerate(sections)
  )
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>\n{stylesheet.CSS}</style>\n</head>\n"
    f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
  )


def _section(section, heading, ids):
  blocks = "\n".join(_block(block, ids) for block in section.blocks)
  title = html.escape(section.title)
  return f"<section>\n<{heading}>{title}</{heading}>\n{blocks}\n</section>"


def _block(block, ids):
  match block:
    case Text(text):
      return f"<p>{html.escape(text)}</p>"
    case Facts(items):
      return _each("facts", items, _fact)
    case Table():
      return _table(block)
    case Plot(figure, caption):
      sizes = "".join(
        f'<div class="plot {kind}">'
        f"{canvas.svg(figure, next(ids), narrow=kind == 'narrow')}</div>"
        for kind in ("wide", "narrow")
      )
      caption = html.escape(caption)
      return f"<figure>{sizes}<figcaption>{caption}</figcaption></figure>"
    case Interactive(content, caption):
      caption = html.escape(caption)
      return (
        f'<figure class="interactive">{content}'
        f"<figcaption>{caption}</figcaption></figure>"
      )
    case Code(text):
      return f"<pre><code>{html.escape(text)}</code></pre>"
    case Quote(text, source):
      cite = f"<cite>{html.escape(source)}</cite>" if source else ""
      return f"<blockquote>{html.escape(text)}{cite}</blockquote>"
    case Verdicts(items):
      claims = "\n".join(_claim(*item) for item in items)
      return f'<ul class="verdicts">\n{claims}\n</ul>'
    case Details(title, blocks):
      inside = "\n".join(_block(inner, ids) for inner in blocks)
      summary = f"<summary>{html.escape(title)}</summary>"
      return f"<details>{summary}\n{inside}\n</details>"
  raise TypeError(f"A section holds blocks, got {type(block).__name__}.")


def _each(kind, items, render_item):
  inside = "\n".join(render_item(*map(html.escape, item)) for item in items)
  return f'<div class="{kind}">\n{inside}\n</div>'


def _fact(label, value, note):
  return f"<div><b>{value}</b><span>{label}</span><small>{note}</small></div>"


def _claim(claim, verdicts):
  inside = _each("models", verdicts, _verdict)
  return f"<li>{html.escape(claim)}\n{inside}</li>"


def _verdict(model, verdict, evidence):
  kind = verdict.replace(" ", "-")
  return (
    f'<div class="{kind}">{model}: <b>{verdict}</b><small>{evidence}</small>'
    "</div>"
  )


def _table(table):
  kinds = [
    _kind([row[i] for row in table.rows]) for i in range(len(table.columns))
  ]
  head = "".join(
    f"<th{kind}>{html.escape(name)}</th>"
    for name, kind in zip(table.columns, kinds, strict=True)
  )
  rows = "\n".join(
    "<tr>"
    + "".join(
      f"<td{kind}>{_cell(cell)}</td>"
      for cell, kind in zip(row, kinds, strict=True)
    )
    + "</tr>"
    for row in table.rows
  )
  caption = table.caption and f"<figcaption>{html.escape(table.caption)}"
  return (
    f'<figure><div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
    f"<tbody>\n{rows}\n</tbody></table></div>"
    f"{caption}{'</figcaption>' if caption else ''}</figure>"
  )


def _kind(cells):
  """Returns the class of a column: numbers, words that wrap, or neither."""
  if any(isinstance(cell, int | float | Interval) for cell in cells):
    return ' class="n"'
  longest = max((len(cell or "") for cell in cells), default=0)
  return ' class="words"' if longest > _LONGEST_LINE else ""


def _cell(cell):
  match cell:
    case None:
      return "–"
    case Interval(value, low, high, d, beside):
      under = [beside] if beside else []
      under += [] if low is None else [f"{low:.{d}f}–{high:.{d}f}"]
      lines = "".join(f"<small>{html.escape(text)}</small>" for text in under)
      return f"{value:.{d}f}{lines}"
    case float():
      return f"{cell:.4g}"
    case int():
      return f"{cell:,}"
  return html.escape(cell)
