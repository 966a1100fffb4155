"""What a field of another project's configuration may hold."""

from collections.abc import Mapping
import dataclasses
import math
import reprlib
from typing import Any, Protocol

import numpy as np

MOST = 2**31 - 1
"""What counts and indices may be at most; arrays' own are int32."""

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class Kind(Protocol):
  """A set of values; its string describes one of them."""

  def holds(self, value: Any) -> bool:
    """Returns whether a value is one of them."""


@dataclasses.dataclass(frozen=True)
class Whole:
  """A whole number, bounds included; neither true nor 1.0 is one."""

  least: int = 1
  most: int = MOST

  def holds(self, value: Any) -> bool:
    return type(value) is int and self.least <= value <= self.most

  def __str__(self) -> str:
    return f"a whole number from {self.least} to {self.most}"


@dataclasses.dataclass(frozen=True)
class Number:
  """A number above `above`, within float32's range."""

  above: float = -math.inf

  def holds(self, value: Any) -> bool:
    return (
      type(value) in (int, float)
      and abs(value) <= _LARGEST_FLOAT32
      and value > self.above
    )

  def __str__(self) -> str:
    above = f" above {self.above:g}" if math.isfinite(self.above) else ""
    return f"a number{above}"


@dataclasses.dataclass(frozen=True)
class Flag:
  """True or false."""

  def holds(self, value: Any) -> bool:
    return type(value) is bool

  def __str__(self) -> str:
    return "true or false"


@dataclasses.dataclass(frozen=True)
class Text:
  """A string."""

  def holds(self, value: Any) -> bool:
    return type(value) is str

  def __str__(self) -> str:
    return "text"


@dataclasses.dataclass(frozen=True)
class Object:
  """A dict, whose keys are strings in every format."""

  def holds(self, value: Any) -> bool:
    return type(value) is dict

  def __str__(self) -> str:
    return "an object"


class OneOf:
  """One of a few values, of the same type."""

  def __init__(self, *values: Any):
    self._values = values

  def holds(self, value: Any) -> bool:
    return any(type(value) is type(v) and value == v for v in self._values)

  def __str__(self) -> str:
    return " or ".join(map(repr, self._values))


@dataclasses.dataclass(frozen=True)
class ListOf:
  """A list of values of one kind."""

  kind: Kind

  def holds(self, value: Any) -> bool:
    return type(value) is list and all(map(self.kind.holds, value))

  def __str__(self) -> str:
    return f"a list, each {self.kind}"


@dataclasses.dataclass(frozen=True)
class Optional:
  """A value of a kind, or null."""

  kind: Kind

  def holds(self, value: Any) -> bool:
    return value is None or self.kind.holds(value)

  def __str__(self) -> str:
    return f"{self.kind}, or null"


def complaints(data: Mapping[str, Any], kinds: Mapping[str, Kind]) -> list[str]:
  """Returns what is wrong with the fields that are there, in `kinds`' order."""
  return [
    f"{name} must be {kind}, got {reprlib.repr(data[name])}"
    for name, kind in kinds.items()
    if name in data and not kind.holds(data[name])
  ]
