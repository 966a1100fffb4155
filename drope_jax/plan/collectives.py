"""What a compiled program sends between devices."""

import collections
from collections.abc import Iterator
import math
import re
from typing import NamedTuple

KINDS = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
BETWEEN_SLICES = "between slices"
"""What leaves a slice, by whichever collective."""

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(?:-start)?\(.*?")
_SENT = re.compile(r" = (\(.*?), .* send\(.*xla_megascale_runtime")
_CALLED = re.compile(
  r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")


class Collective(NamedTuple):
  """All collectives of one kind.

  Attributes:
    count: of a step.
    bytes: of their results on a device, in a step; between slices, of what it
      sends.
  """

  count: int
  bytes: int


def read(hlo: str) -> dict[str, Collective]:
  """Returns a program's collectives by kind.

  A loop's body counts as often as it runs, by the number of trips that the
  compiler notes; once, where it notes none.

  Args:
    hlo: the optimised program's text.
  """
  bodies = dict(_computations(hlo))
  entry = re.search(r"^ENTRY %?([\w.\-]+)", hlo, re.M)[1]
  counts, sizes = collections.Counter(), collections.Counter()

  def visit(name: str, times: int) -> None:
    for line in bodies.get(name, ()):
      if found := _COLLECTIVE.search(line):
        counts[found[2]] += times
        sizes[found[2]] += times * _bytes(found[1], "-start(" in line)
      if found := _SENT.search(line):
        counts[BETWEEN_SLICES] += times
        sizes[BETWEEN_SLICES] += times * _bytes(found[1], False)
      trips = _TRIPS.search(line)
      inner = times * int(trips[1]) if trips else times
      called = _CALLED.findall(line)
      for some in _BRANCHES.findall(line):
        called += [each.strip().lstrip("%") for each in some.split(",")]
      for each in called:
        visit(each, inner)

  visit(entry, 1)
  return {
    kind: Collective(counts[kind], int(sizes[kind])) for kind in sorted(counts)
  }


def _computations(hlo: str) -> Iterator[tuple[str, list[str]]]:
  name, lines = None, []
  for line in hlo.splitlines():
    if found := _COMPUTATION.match(line):
      name, lines = found[1], []
    elif line.startswith("}") and name:
      yield name, lines
      name = None
    elif name:
      lines.append(line)


def _bytes(shape: str, started: bool) -> int:
  """Returns those of a result; what is started has its operand before it."""
  arrays = [
    math.prod(map(int, filter(None, sides.split(",")))) * _width(dtype)
    for dtype, sides in _ARRAY.findall(shape)
  ]
  return sum(arrays[len(arrays) // 2 :]) if started else sum(arrays)


def _width(dtype: str) -> float:
  if dtype == "pred":
    return 1
  return int(re.search(r"\d+", dtype)[0]) / 8
