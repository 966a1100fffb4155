"""A rich console that prints strings as plain text."""

import rich.console
import rich.text

from drope_jax.cli import terminal


class Console(rich.console.Console):
  """Prints strings without control characters, and without rich's markup."""

  def __init__(self, *, stderr: bool = False, **options):
    super().__init__(stderr=stderr, markup=False, emoji=False, **options)

  def render_str(self, text: str, **options) -> rich.text.Text:
    return super().render_str(terminal.printable(text), **options)


def plain(text: str) -> rich.text.Text:
  """Returns plain text, for places where rich would interpret a string."""
  return rich.text.Text(terminal.printable(text))
