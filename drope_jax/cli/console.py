"""Rich's console, to which strings are plain text."""

import rich.console
import rich.text

from drope_jax.cli import terminal


class Console(rich.console.Console):
  """Shows strings printable, and [brackets] and :names: in them as they are."""

  def __init__(self, *, stderr: bool = False, **options):
    super().__init__(stderr=stderr, markup=False, emoji=False, **options)

  def render_str(self, text: str, **options) -> rich.text.Text:
    return super().render_str(terminal.printable(text), **options)


def plain(text: str) -> rich.text.Text:
  """Returns a text for the places where rich reads every string as markup."""
  return rich.text.Text(terminal.printable(text))
