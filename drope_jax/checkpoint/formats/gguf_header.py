"""A GGUF file's header: its fields, and where its tensors lie.

The `gguf` library's own reader trusts a file's counts, and makes some 700 bytes
of every number in a list, so that neither its time nor its memory is bounded by
the file. Its types and their sizes are used here.

Source: github.com/ggml-org/ggml, docs/gguf.md; versions 2 and 3.
"""

from collections.abc import Iterable
import math
import pathlib
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from drope_jax import extras

T = TypeVar("T")

MOST_BYTES = 64 * 2**20
"""Of a header, which becomes at most ten times as much in memory.

The largest vocabularies of today take a fifth of it.
"""

_MOST_AXES = 4

_TEXT, _LIST = 8, 9
_NUMBERS = {
  0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?",
  10: "u8", 11: "i8", 12: "f8",
}  # fmt: skip
"""By the number that a field has for its type."""


class TensorInfo(NamedTuple):
  """Where a tensor lies.

  Attributes:
    kind: the library's GGMLQuantizationType.
    shape: of its elements, slowest axis first.
    shape_in_bytes: likewise, with the last axis in bytes.
    offset: bytes from the file's start.
  """

  kind: Any
  shape: tuple[int, ...]
  shape_in_bytes: tuple[int, ...]
  offset: int


class Header(NamedTuple):
  """What comes before the tensors' data.

  Attributes:
    fields: by name: numbers, texts, and lists of either.
    tensors: by name.
  """

  fields: dict[str, Any]
  tensors: dict[str, TensorInfo]


def read(path: pathlib.Path) -> Header:
  """Returns a file's header, whose tensors lie within the file.

  Raises:
    ValueError: the `gguf` library is not installed; the file is not whole, not
      little-endian, or has a header beyond `MOST_BYTES`.
  """
  gguf = extras.load("gguf", "gguf", "A GGUF file")
  size = path.stat().st_size
  try:
    with path.open("rb") as file:
      return _parse(_Reader(file, min(size, MOST_BYTES)), size, gguf)
  except ValueError as error:
    raise ValueError(
      f"{path} must be a whole GGUF file, got {size} bytes that are not "
      f"({error}). Fetch it again."
    ) from error


def _parse(reader: "_Reader", size: int, gguf: Any) -> Header:
  if reader.take(4) != b"GGUF":
    raise ValueError("other bytes than GGUF at its start")
  if (version := reader.number("u4")) not in (2, 3):
    raise ValueError(f"version {version}, where 2 and 3 are read")
  num_tensors, num_fields = reader.number("u8"), reader.number("u8")
  fields = _unique(reader.field() for _ in range(num_fields))
  tensors = _unique(reader.tensor() for _ in range(num_tensors))
  alignment = fields.get("general.alignment", 32)
  if type(alignment) is not int or alignment < 1:
    raise ValueError(f"a general.alignment of {alignment!r}")
  data_start = -(-reader.position // alignment) * alignment
  infos = {}
  for name, (shape, number, offset) in tensors.items():
    kind = gguf.GGMLQuantizationType(number)
    in_bytes = gguf.quants.quant_shape_to_byte_shape(shape, kind)
    if (end := data_start + offset + math.prod(in_bytes)) > size:
      raise ValueError(f"{name} reaches up to byte {end}")
    infos[name] = TensorInfo(kind, shape, in_bytes, data_start + offset)
  return Header(fields, infos)


def _unique(items: Iterable[tuple[str, T]]) -> dict[str, T]:
  found: dict[str, T] = {}
  for name, value in items:
    if name in found:
      raise ValueError(f"{name} twice")
    found[name] = value
  return found


class _Reader:
  """Reads a file's values one by one, and none beyond a limit of bytes."""

  def __init__(self, file: BinaryIO, limit: int):
    self._file, self._limit, self.position = file, limit, 0

  def take(self, count: int) -> bytes:
    if self.position + count > self._limit:
      raise ValueError(f"a header up to byte {self.position + count} at least")
    self.position += count
    return self._file.read(count)

  def number(self, dtype: str) -> Any:
    return self.numbers(dtype, 1)[0]

  def numbers(self, dtype: str, count: int) -> list[Any]:
    little = np.dtype(f"<{dtype}")
    return np.frombuffer(self.take(count * little.itemsize), little).tolist()

  def text(self) -> str:
    return self.take(self.number("u8")).decode("utf-8")

  def field(self) -> tuple[str, Any]:
    name, kind = self.text(), self.number("u4")
    if kind == _TEXT:
      return name, self.text()
    if kind in _NUMBERS:
      return name, self.number(_NUMBERS[kind])
    if kind != _LIST:
      raise ValueError(f"{name} of an unknown type {kind}")
    kind, count = self.number("u4"), self.number("u8")
    if kind == _TEXT:
      return name, [self.text() for _ in range(count)]
    if kind in _NUMBERS:
      return name, self.numbers(_NUMBERS[kind], count)
    raise ValueError(f"{name}, a list of an unknown type {kind}")

  def tensor(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
    name, num_axes = self.text(), self.number("u4")
    if not 1 <= num_axes <= _MOST_AXES:
      raise ValueError(f"{name} of {num_axes} axes, where 1 to 4 are read")
    shape = tuple(self.numbers("u8", num_axes)[::-1])
    return name, (shape, self.number("u4"), self.number("u8"))
