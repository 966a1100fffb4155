"""What commands print, with nothing in it that steers the terminal.

Paths, pieces of tokenizers and names are other people's. An escape sequence in
one could recolour the screen, retitle the window or hide what stands beside it.
"""

import sys
import unicodedata

_STEERING = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control codes, lone surrogates and separators."""

_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Explicit directions, which show a text in another order than it has."""


def printable(text: object) -> str:
  r"""Returns text with control characters as Python writes them: ESC is \x1b.

  Line breaks and tabs stay.
  """
  return "".join(map(_spell, str(text)))


def say(text: object, *, stderr: bool = False) -> None:
  """Prints a message."""
  print(printable(text), file=sys.stderr if stderr else sys.stdout)


def hand_on(text: str, end: str = "\n") -> None:
  """Prints what a model wrote: printable on a terminal, as it is in a pipe."""
  shown = printable(text) if sys.stdout.isatty() else text
  print(shown, end=end, flush=True)


def _spell(character: str) -> str:
  if character in "\n\t" or not (
    unicodedata.category(character) in _STEERING
    or unicodedata.bidirectional(character) in _REORDERING
  ):
    return character
  code = ord(character)
  return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
