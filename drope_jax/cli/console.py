"""A rich console that prints strings as plain text."""

from typing import Any

import rich.console
import rich.measure
import rich.table
import rich.text

from drope_jax.cli import terminal


class Console(rich.console.Console):
  """Prints strings without control characters, and without rich's markup."""

  def __init__(self, *, stderr: bool = False, **options):
    super().__init__(stderr=stderr, markup=False, emoji=False, **options)

  def print(self, *objects: Any, **options: Any) -> None:
    """Prints objects; the terminal wraps lines that are wider than itself."""
    super().print(*objects, **{"crop": False} | options)

  def render_str(self, text: str, **options) -> rich.text.Text:
    return super().render_str(terminal.printable(text), **options)


class Table(rich.table.Table):
  """A table that is at least as wide as its columns need, on any terminal.

  Its first column has a `min_width`, to which it is folded. rich's own table
  would leave out that column's text, and then cut the others'.
  """

  def __rich_console__(self, console, options):
    first = self.columns[0]
    most, first.max_width = first.max_width, first.min_width
    unbounded = options.update(max_width=10_000)
    needed = rich.measure.Measurement.get(console, unbounded, self).minimum
    first.max_width = most
    width = max(options.max_width, needed)
    yield from super().__rich_console__(
      console, options.update(max_width=width)
    )


def plain(text: str) -> rich.text.Text:
  """Returns plain text, for places where rich would interpret a string."""
  return rich.text.Text(terminal.printable(text))
