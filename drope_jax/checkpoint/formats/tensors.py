"""A tensor that lies in a file, read some rows at a time."""

from collections.abc import Callable, Collection, Iterable, Sequence
import dataclasses
import math
import os
from typing import Any

import ml_dtypes
import numpy as np

Reader = Callable[[int, int], np.ndarray]

ROWS_BYTES = 64 * 2**20
"""How much of a tensor is compared or copied at a time."""

_PART = 2**18
_LISTED = 5

FLOATS = {
  "float32": np.dtype(np.float32),
  "float16": np.dtype(np.float16),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Weights that are not read yet.

  Attributes:
    shape: the tensor's; at least one axis.
    dtype: what `rows` returns.
    rows: from start and stop to that slice of the first axis.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  rows: Reader

  def array(self) -> np.ndarray:
    """Returns all of it."""
    return self.rows(0, self.shape[0])


def common_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
  """Returns the dtype if it is one, and else float32, which holds all."""
  kept = {*dtypes}
  return kept.pop() if len(kept) == 1 else FLOATS["float32"]


def require_axes(name: str, shape: Sequence[int]) -> None:
  """Raises ValueError where a shape has no axis, or one of no size."""
  if not shape or 0 in shape:
    raise ValueError(
      f"Weights must have axes, each of at least 1, got {tuple(shape)} for "
      f"{name}. Use a checkpoint of weights alone."
    )


def require_float(name: str, dtype: str, floats: Collection[str]) -> None:
  """Raises ValueError where a file's name of a dtype is none of its floats."""
  if dtype not in floats:
    raise ValueError(
      f"Weights must be of {', '.join(floats)}, got {dtype} for {name}. Use an "
      "unquantized checkpoint."
    )


def in_file(
  path: str | os.PathLike,
  offset: int,
  shape: tuple[int, ...],
  dtype: np.dtype,
) -> Tensor:
  """Returns the little-endian, row-major tensor at `offset` bytes.

  Rows are read, not mapped: mapped pages count as the process's memory.
  """
  row_items = math.prod(shape[1:])
  # numpy reads no bfloat16 from files, but any integers.
  raw = np.dtype(f"<u{dtype.itemsize}")

  def rows(start: int, stop: int) -> np.ndarray:
    items = np.fromfile(
      path,
      raw,
      count=(stop - start) * row_items,
      offset=offset + start * row_items * dtype.itemsize,
    )
    return items.view(dtype).reshape(stop - start, *shape[1:])

  return Tensor(shape, dtype, rows)


def bits(array: np.ndarray) -> np.ndarray:
  """Returns the same memory as integers, which numpy moves as a block.

  It moves ml_dtypes' bfloat16 element by element, and writes none to files.
  """
  return array.view(f"u{array.dtype.itemsize}")


def part(tensor: Tensor, start: int, stop: int, axis: int = 0) -> Tensor:
  """Returns `start` to `stop` along axis 0 or 1 of a tensor, as a tensor."""
  shape = list(tensor.shape)
  shape[axis] = stop - start

  def rows(first: int, last: int) -> np.ndarray:
    if axis == 0:
      return tensor.rows(start + first, start + last)
    return tensor.rows(first, last)[:, start:stop]

  return Tensor(tuple(shape), tensor.dtype, rows)


def every(tensor: Tensor, block: int, index: int, count: int) -> Tensor:
  """Returns block `index` of each `count` blocks of rows, as a tensor."""
  shape = (tensor.shape[0] // count, *tensor.shape[1:])

  def rows(start: int, stop: int) -> np.ndarray:
    first, last = start // block, -(-stop // block)
    read = tensor.rows(first * count * block, last * count * block)
    blocks = read.reshape(-1, count, block, *shape[1:])[:, index]
    chosen = blocks.reshape(-1, *shape[1:])
    return chosen[start - first * block : stop - first * block]

  return Tensor(shape, tensor.dtype, rows)


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
  """Returns parts of one shape and dtype, end to end along axis 0 or 1."""
  first, count = parts[0], len(parts)
  shape = list(first.shape)
  shape[axis] *= count

  def along_rows(start: int, stop: int) -> list[np.ndarray]:
    size = first.shape[0]
    return [
      part.rows(max(start - i * size, 0), min(stop - i * size, size))
      for i, part in enumerate(parts)
      if start < (i + 1) * size and i * size < stop
    ]

  def along_columns(start: int, stop: int) -> list[np.ndarray]:
    return [part.rows(start, stop) for part in parts]

  def rows(start: int, stop: int) -> np.ndarray:
    read = (along_rows, along_columns)[axis](start, stop)
    return np.concatenate([bits(x) for x in read], axis).view(first.dtype)

  return Tensor(tuple(shape), first.dtype, rows)


def same(one: Tensor, other: Tensor) -> bool:
  """Returns whether two tensors are alike in the less precise dtype of both.

  Bit for bit, where they are of one dtype.
  """
  if one.shape != other.shape:
    return False
  dtype = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
  row_bytes = FLOATS["float32"].itemsize * math.prod(one.shape[1:])
  step = max(1, ROWS_BYTES // row_bytes)
  parts = [
    (start, min(start + step, one.shape[0]))
    for start in range(0, one.shape[0], step)
  ]
  return all(
    one.rows(*part).astype(dtype, copy=False).tobytes()
    == other.rows(*part).astype(dtype, copy=False).tobytes()
    for part in parts
  )


def is_finite(array: np.ndarray) -> bool:
  """Returns whether no element is NaN or infinite, of any of `FLOATS`.

  By the bits: ml_dtypes would cast bfloat16 to float32 first. A part at a
  time, which stays in the cache and takes no memory of the array's size.
  """
  flat = bits(array.reshape(-1))
  exponent = bits(np.asarray(np.inf, array.dtype))
  parts = (flat[i : i + _PART] for i in range(0, flat.size, _PART))
  return not any(np.any((part & exponent) == exponent) for part in parts)


def listed(names: Any) -> str:
  """Returns names for an error's line, the first few of very many."""
  names = sorted(names)
  more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
  return ", ".join(names[:_LISTED]) + more
