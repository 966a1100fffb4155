"""Counts and parts as people write them: 20M, 1.5B, 300_000; 2/8."""

import argparse
import fractions
import re

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse(text: str) -> int:
  """Returns the count that `text` spells, as a type for `add_argument`.

  Raises:
    ArgumentTypeError: it is not a whole number of at least 1.
  """
  found = re.fullmatch(
    r"([0-9][0-9_]*(?:\.[0-9]+)?)([KMBT]?)", text.strip().upper()
  )
  count = fractions.Fraction(0)
  if found:
    count = fractions.Fraction(found[1].replace("_", "")) * _UNITS[found[2]]
  if count < 1 or count.denominator != 1:
    raise argparse.ArgumentTypeError(
      f"a whole number of at least 1 is needed, e.g. 20M or 300_000, got "
      f"{text!r}"
    )
  return int(count)


def part(text: str) -> tuple[int, int]:
  """Returns K and N of K/N, the Kth of N parts, as a type for `add_argument`.

  Raises:
    ArgumentTypeError: there is no such part.
  """
  found = re.fullmatch(r"(\d+)/(\d+)", text)
  k, n = map(int, found.groups()) if found else (0, 0)
  if not 1 <= k <= n:
    raise argparse.ArgumentTypeError(
      f"a part is K/N such as 2/8, with 1 <= K <= N, got {text!r}"
    )
  return k, n
