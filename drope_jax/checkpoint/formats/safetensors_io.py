"""safetensors files: one, or shards with an index; read by rows."""

from collections.abc import Iterable, Mapping, Sequence
import json
import math
import pathlib
import reprlib
import struct
from typing import NamedTuple

import numpy as np
import safetensors

from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.tensors import Tensor
from drope_jax.data import json_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

SHARD_BYTES = 5 * 10**9
"""As transformers', for its 5GB."""


class Entry(NamedTuple):
  """A tensor to be written."""

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def open_file(
  path: pathlib.Path, buffers: tuple[str, ...] = ()
) -> dict[str, Tensor]:
  """Returns a file's tensors by name; only its header is read.

  Args:
    path: of the file.
    buffers: how the names of tensors end that are left out, of any dtype.

  Raises:
    ValueError: the file is truncated or not safetensors; a tensor is of
      another dtype than float32, float16 and bfloat16.
    OSError: it cannot be opened.
  """
  try:
    # safetensors checks that the header is whole and covers the file exactly,
    # but calls a file that may not be read one that is not there.
    with path.open("rb"), safetensors.safe_open(path, "numpy"):
      pass
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{path} must be a whole safetensors file, got {path.stat().st_size} "
      f"bytes that are not ({error}). Fetch it again."
    ) from error
  with path.open("rb") as file:
    (header_bytes,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(header_bytes))
  header.pop("__metadata__", None)
  tensors = {}
  for name, entry in header.items():
    if name.endswith(buffers):
      continue
    tensors_lib.require_float(f"{name} in {path}", entry["dtype"], DTYPES)
    tensors_lib.require_axes(f"{name} in {path}", entry["shape"])
    tensors[name] = tensors_lib.in_file(
      path,
      8 + header_bytes + entry["data_offsets"][0],
      tuple(entry["shape"]),
      tensors_lib.FLOATS[DTYPES[entry["dtype"]]],
    )
  return tensors


def open_shards(
  index: pathlib.Path, buffers: tuple[str, ...] = (), open_shard=open_file
) -> dict[str, Tensor]:
  """Returns the tensors of all the shards that an index names.

  Args:
    index: a JSON file; its weight_map gives each tensor's shard.
    buffers: as for `open_file`.
    open_shard: opens one; PyTorch's shards have the same index.

  Raises:
    FileNotFoundError: a shard is missing.
    ValueError: as `open_file`; the index and the shards disagree.
  """
  by_shard = _by_shard(index)
  tensors: dict[str, Tensor] = {}
  for shard, names in sorted(by_shard.items()):
    path = index.parent / shard
    if not path.exists():
      raise FileNotFoundError(
        f"Every shard that {index} names is needed, got no {shard}. Fetch it."
      )
    got = open_shard(path, buffers)
    names = {name for name in names if not name.endswith(buffers)}
    if got.keys() != names:
      differing = tensors_lib.listed(got.keys() ^ names)
      raise ValueError(
        f"{path} must hold the tensors that {index.name} says, got a "
        f"difference in {differing}. Fetch both again."
      )
    tensors |= got
  return tensors


def write(
  folder: pathlib.Path,
  entries: Sequence[Entry],
  arrays: Iterable[np.ndarray],
) -> None:
  """Writes one file, or shards of at most `SHARD_BYTES` and their index.

  Args:
    folder: is there.
    entries: what `arrays` yields, in order; a shard holds one at least.
    arrays: taken one at a time, so that no more than one is held here.
  """
  shards: list[list[Entry]] = [[]]
  for entry in entries:
    full = sum(e.nbytes for e in shards[-1]) + entry.nbytes > SHARD_BYTES
    if full and shards[-1]:
      shards.append([])
    shards[-1].append(entry)
  n = len(shards)
  names = [f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)]
  if n == 1:
    names = [SINGLE]
  remaining = iter(arrays)
  for name, shard in zip(names, shards, strict=True):
    _write_file(folder / name, shard, remaining)
  if n == 1:
    return
  index = {
    "metadata": {"total_size": sum(entry.nbytes for entry in entries)},
    "weight_map": {
      entry.name: name
      for name, shard in zip(names, shards, strict=True)
      for entry in shard
    },
  }
  json_object.write(folder / INDEX, index)


def _write_file(path, entries, arrays):
  tags = {name: tag for tag, name in DTYPES.items()}
  header, offset = {"__metadata__": {"format": "pt"}}, 0
  for entry in entries:
    header[entry.name] = {
      "dtype": tags[entry.dtype.name],
      "shape": list(entry.shape),
      "data_offsets": [offset, offset + entry.nbytes],
    }
    offset += entry.nbytes
  encoded = json.dumps(header, separators=(",", ":")).encode()
  encoded += b" " * (-len(encoded) % 8)  # The format aligns tensors so.
  with path.open("wb") as file:
    file.write(struct.pack("<Q", len(encoded)) + encoded)
    for entry in entries:
      array = next(arrays)
      assert (array.shape, array.dtype) == (entry.shape, entry.dtype)
      # Not by tofile, whose error on a full disk does not say so.
      file.write(tensors_lib.bits(np.ascontiguousarray(array)))


def _by_shard(index: pathlib.Path) -> Mapping[str, set[str]]:
  weight_map = json_object.read(index).get("weight_map")
  if not isinstance(weight_map, dict):
    raise ValueError(
      f"{index} must have a weight_map from tensors to shards, got "
      f"{reprlib.repr(weight_map)}. Fetch it again."
    )
  by_shard: dict[str, set[str]] = {}
  for name, shard in weight_map.items():
    # A link within the folder may lead out, as those of the hub's cache do.
    if not isinstance(shard, str) or not _is_below(shard):
      raise ValueError(
        f"A shard must be a file in the folder of {index}, got "
        f"{reprlib.repr(shard)} for {name}. Fetch the index again."
      )
    by_shard.setdefault(shard, set()).add(name)
  return by_shard


def _is_below(shard: str) -> bool:
  path = pathlib.PurePath(shard)
  return path.name != "" and not path.is_absolute() and ".." not in path.parts
