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

_NAME = r"%?([\w.\-]+)"
_COMPUTATION = re.compile(rf"^(?:ENTRY )?{_NAME} .*\{{$")
_DEFINITION = re.compile(rf"^\s*(ROOT )?{_NAME} = (.*)$")
_COLLECTIVE = re.compile(rf"(.*?) ({'|'.join(KINDS)})(-start)?\(")
_SENT = re.compile(r"\((.*?), .* send\(.*xla_megascale_runtime")
_CALLED = re.compile(
  rf"(?:body|calls|to_apply|true_computation|false_computation)={_NAME}"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_WHILE = re.compile(rf" while\({_NAME}\), condition={_NAME}, body={_NAME}")
_LESS = re.compile(rf" compare\({_NAME}, {_NAME}\), direction=LT")
_ELEMENT = re.compile(r" get-tuple-element\(.*index=(\d+)")
_TUPLE = re.compile(r" tuple\((.*?)\)")
_ADD = re.compile(rf" add\({_NAME}, {_NAME}\)")
_CONSTANT = re.compile(r" constant\((\d+)\)")
_COPY = re.compile(rf" copy\({_NAME}\)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")

_Computation = dict[str, str]
"""Operations by name, and the last, which is the result, by `_ROOT`."""
_ROOT = ""


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

  A loop's body counts as often as it runs: by the number of trips that the
  compiler notes, or else by the constants between which the loop counts; once,
  where it counts otherwise.

  Args:
    hlo: the optimised program's text.
  """
  computations = dict(_computations(hlo))
  entry = re.search(rf"^ENTRY {_NAME}", hlo, re.M)[1]
  counts, sizes = collections.Counter(), collections.Counter()

  def visit(name: str, times: int) -> None:
    computation = computations.get(name, {})
    for operation, line in computation.items():
      if operation == _ROOT:
        continue
      if found := _COLLECTIVE.match(line):
        counts[found[2]] += times
        sizes[found[2]] += times * _result_bytes(*found.groups())
      if found := _SENT.match(line):
        counts[BETWEEN_SLICES] += times
        sizes[BETWEEN_SLICES] += times * _bytes(found[1])
      called = _CALLED.findall(line)
      for some in _BRANCHES.findall(line):
        called += [each.strip().lstrip("%") for each in some.split(",")]
      trips = _trips(line, computation, computations)
      for each in called:
        visit(each, times * trips)

  visit(entry, 1)
  return {
    kind: Collective(counts[kind], int(sizes[kind])) for kind in sorted(counts)
  }


def _computations(hlo: str) -> Iterator[tuple[str, _Computation]]:
  name, operations = None, {}
  for line in hlo.splitlines():
    if found := _COMPUTATION.match(line):
      name, operations = found[1], {}
    elif line.startswith("}") and name:
      yield name, operations
      name = None
    elif name and (found := _DEFINITION.match(line)):
      operations[found[2]] = found[3]
      if found[1]:
        operations[_ROOT] = found[3]


def _trips(
  line: str, around: _Computation, computations: dict[str, _Computation]
) -> int:
  """Returns how often an operation runs what it calls."""
  if known := _KNOWN_TRIPS.search(line):
    return int(known[1])
  if not (loop := _WHILE.search(line)):
    return 1
  condition, body = computations[loop[2]], computations[loop[3]]
  if not (less := _LESS.search(condition[_ROOT])):
    return 1
  if not (place := _ELEMENT.search(condition[less[1]])):
    return 1
  limit = _constant(less[2], condition)
  start = _constant(_part(around[loop[1]], int(place[1])), around)
  added = _ADD.search(body.get(_part(body[_ROOT], int(place[1])), ""))
  step = _constant(added[2], body) if added else None
  if None in (start, limit, step):
    return 1
  return math.ceil((limit - start) / step)


def _part(line: str, index: int) -> str | None:
  """Returns the name of an element of a tuple."""
  made = _TUPLE.search(line)
  return re.findall(r"%([\w.\-]+)", made[1])[index] if made else None


def _constant(name: str | None, computation: _Computation) -> int | None:
  """Returns the value of what is a constant, or a copy of one."""
  while copied := _COPY.search(computation.get(name, "")):
    name = copied[1]
  found = _CONSTANT.search(computation.get(name, ""))
  return int(found[1]) if found else None


def _result_bytes(shape: str, kind: str, start: str | None) -> float:
  """Returns those of a collective's result.

  What is started has its operands before it, but for an all-reduce, and may
  have scalars of the network's behind.
  """
  if not start or kind == "all-reduce":
    return _bytes(shape)
  arrays = _sizes(re.sub(r"u32\[\]\S*", "", shape))
  return sum(arrays[len(arrays) // 2 :])


def _bytes(shape: str) -> float:
  return sum(_sizes(shape))


def _sizes(shape: str) -> list[float]:
  return [
    math.prod(map(int, filter(None, sides.split(",")))) * _width(dtype)
    for dtype, sides in _ARRAY.findall(shape)
  ]


def _width(dtype: str) -> float:
  if dtype == "pred":
    return 1
  return int(re.search(r"\d+", dtype)[0]) / 8
