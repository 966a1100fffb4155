"""Printing text without control characters.

Paths, tokens and names come from other people. An escape sequence in one could
recolor the screen, change the window's title, or hide the text beside it.
"""

import argparse
import sys
import unicodedata

_CONTROL = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories of control codes, lone surrogates and separators."""

_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Directional formatting, which can show text in another order than it has."""


def printable(text: object) -> str:
  r"""Returns text with control characters escaped as in Python: ESC is \x1b.

  Line breaks and tabs are kept.
  """
  return "".join(map(_spell, str(text)))


def say(text: object, *, stderr: bool = False) -> None:
  """Prints a message."""
  print(printable(text), file=sys.stderr if stderr else sys.stdout)


def complain(program: str, message: str) -> None:
  """Prints a message in one line on stderr, after the program's name."""
  say(f"{program}: {' '.join(message.split())}", stderr=True)


class Parser(argparse.ArgumentParser):
  """Reports an error in one line, without the usage block."""

  def error(self, message):
    text = f"{self.prog}: {message} (see `{self.prog} --help`)\n"
    self.exit(2, printable(text))


def print_output(text: str, end: str = "\n") -> None:
  """Prints a model's output: escaped on a terminal, unchanged in a pipe."""
  shown = printable(text) if sys.stdout.isatty() else text
  print(shown, end=end, flush=True)


def _spell(character: str) -> str:
  if character in "\n\t" or not (
    unicodedata.category(character) in _CONTROL
    or unicodedata.bidirectional(character) in _REORDERING
  ):
    return character
  code = ord(character)
  return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
