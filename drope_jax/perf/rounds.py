"""Timing rounds that benchmarks share.

Rows of a benchmark take turns in each round, so that a busy neighbor slows all
of them alike. A ratio is taken within each round.
"""

from collections.abc import Callable, Iterable, Sequence
import json
import statistics
import subprocess
import sys
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Ratio(NamedTuple):
  """Ratios of all rounds.

  Attributes:
    median, least, most: of the rounds.
  """

  median: float
  least: float
  most: float


def in_turn(
  rows: Iterable[str], rounds: int, run: Callable[[str], T]
) -> dict[str, list[T]]:
  """Runs every row once in each round; returns what they found, by row."""
  found: dict[str, list[T]] = {row: [] for row in rows}
  for _ in range(rounds):
    for row in found:
      found[row].append(run(row))
  return found


def in_process(row: str, *arguments: str) -> Any:
  """Runs a row of this program in a process of its own.

  The process is started with this one's arguments, `--row ROW` and `arguments`,
  and must print JSON as its last line.

  Returns:
    What the JSON holds.

  Raises:
    subprocess.CalledProcessError: the row failed.
  """
  command = [sys.executable, *sys.argv, "--row", row, *arguments]
  out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
  return json.loads(out.stdout.splitlines()[-1])


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
  """Returns the ratios of two rows' figures, round by round."""
  found = [a / b for a, b in zip(above, below, strict=True)]
  return Ratio(statistics.median(found), min(found), max(found))
