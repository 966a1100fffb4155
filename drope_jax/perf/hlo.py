"""Reads optimized HLO: a program's operations, and how often each runs.

A loop runs as often as the compiler notes in its trip count, or as the constant
start, limit and step of its counter say; once if they are not constants. Every
branch of a conditional counts.
"""

from collections.abc import Iterator, Mapping
import math
import re
from typing import NamedTuple

_NAME = r"%?([\w.\-]+)"
_COMPUTATION = re.compile(rf"^(?:ENTRY )?{_NAME} .*\{{$")
_DEFINITION = re.compile(rf"^\s*(ROOT )?{_NAME} = (.*)$")
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

Computation = Mapping[str, str]
"""The text of each operation by its name; that of the result under `ROOT`."""
ROOT = ""


class Operation(NamedTuple):
  """One operation of a program.

  Attributes:
    name: the compiler's.
    text: its shape, kind, operands and attributes.
    times: how often it runs.
    around: the computation that it is in.
    fusion: the outermost fusion that it is in; None if it is in none.
  """

  name: str
  text: str
  times: int
  around: Computation
  fusion: str | None


class Module:
  """A program's computations, by name.

  Attributes:
    computations: their operations.
    entry: the name of the computation that runs first.
  """

  def __init__(self, text: str):
    self.computations = dict(_computations(text))
    (self.entry,) = re.findall(rf"^ENTRY {_NAME}", text, re.M)

  def operations(self) -> Iterator[Operation]:
    """Yields every operation that runs; a fusion comes before its parts."""
    return self._of(self.entry, 1, None)

  def _of(
    self, name: str, times: int, fusion: str | None
  ) -> Iterator[Operation]:
    around = self.computations.get(name, {})
    for operation, text in around.items():
      if operation == ROOT:
        continue
      yield Operation(operation, text, times, around, fusion)
      outer = fusion or (operation if " fusion(" in text else None)
      trips = self._trips(text, around)
      for each in called(text):
        yield from self._of(each, times * trips, outer)

  def _trips(self, text: str, around: Computation) -> int:
    """Returns how often an operation runs the computations that it calls."""
    if known := _KNOWN_TRIPS.search(text):
      return int(known[1])
    if not (loop := _WHILE.search(text)):
      return 1
    condition, body = (self.computations[loop[n]] for n in (2, 3))
    if not (less := _LESS.search(condition[ROOT])):
      return 1
    if not (place := _ELEMENT.search(condition[less[1]])):
      return 1
    limit = _constant(less[2], condition)
    start = _constant(_part(around[loop[1]], int(place[1])), around)
    added = _ADD.search(body.get(_part(body[ROOT], int(place[1])), ""))
    step = _constant(added[2], body) if added else None
    if start is None or limit is None or step is None:
      return 1
    return math.ceil((limit - start) / step)


def called(text: str) -> list[str]:
  """Returns the names of the computations that an operation runs."""
  names = _CALLED.findall(text)
  for some in _BRANCHES.findall(text):
    names += [each.strip().lstrip("%") for each in some.split(",")]
  return names


def array_bytes(shape: str) -> list[float]:
  """Returns the bytes of each array in the text of a shape."""
  return [
    math.prod(map(int, filter(None, sides.split(",")))) * _width(dtype)
    for dtype, sides in _ARRAY.findall(shape)
  ]


def _computations(text: str) -> Iterator[tuple[str, Computation]]:
  name: str | None = None
  operations: dict[str, str] = {}
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      name, operations = found[1], {}
    elif line.startswith("}") and name:
      yield name, operations
      name = None
    elif name and (found := _DEFINITION.match(line)):
      operations[found[2]] = found[3]
      if found[1]:
        operations[ROOT] = found[3]


def _part(text: str, index: int) -> str:
  """Returns the name of an element of a tuple, or nothing."""
  made = _TUPLE.search(text)
  return re.findall(r"%([\w.\-]+)", made[1])[index] if made else ""


def _constant(name: str, around: Computation) -> int | None:
  """Returns the value of a constant or of a copy of one, or None."""
  while copied := _COPY.search(around.get(name, "")):
    name = copied[1]
  found = _CONSTANT.search(around.get(name, ""))
  return int(found[1]) if found else None


def _width(dtype: str) -> float:
  if dtype == "pred":
    return 1
  bits, *_ = re.findall(r"\d+", dtype)
  return int(bits) / 8
