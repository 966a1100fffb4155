"""Sets of characters in a regular expression of the tokenizers library."""

from collections.abc import Iterable
import itertools


def inside(characters: Iterable[str]) -> str:
  """Returns what stands between the brackets for any of the characters."""
  numbered = enumerate(sorted(map(ord, characters)))
  runs = itertools.groupby(numbered, lambda pair: pair[1] - pair[0])
  spans = []
  for _, run in runs:
    codes = [code for _, code in run]
    spans.append(rf"\x{{{codes[0]:x}}}-\x{{{codes[-1]:x}}}")
  return "".join(spans)
