"""A tensor that lies in a file, read some rows at a time."""

from collections.abc import Callable
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


def is_finite(array: np.ndarray) -> bool:
  """Returns whether no element is NaN or infinite, of any of `FLOATS`.

  By the bits: ml_dtypes would cast bfloat16 to float32 first. A part at a
  time, which stays in the cache and takes no memory of the array's size.
  """
  flat = bits(array.reshape(-1))
  exponent = bits(np.asarray(np.inf, array.dtype))
  parts = (flat[i : i + _PART] for i in range(0, flat.size, _PART))
  return not any(np.any((part & exponent) == exponent) for part in parts)


def listed(names: Any, limit: int = 5) -> str:
  """Returns names for an error's line, the first few of very many."""
  names = sorted(names)
  more = f" and {len(names) - limit} more" if len(names) > limit else ""
  return ", ".join(names[:limit]) + more
