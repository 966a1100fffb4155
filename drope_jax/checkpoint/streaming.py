"""Parameters that are written block by block, so that none is whole in memory.

On disk they are what Orbax writes: zarr3 arrays in one OCDBT store, and the
tree's `_METADATA`. Chunks are the blocks, uncompressed.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import dataclasses
import itertools
import json
import math
from typing import Any

from etils import epath
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
import tensorstore as ts

from drope_jax import trees

Region = tuple[slice, ...]

_BLOCKS_AT_ONCE = 4
_BLOCK_BYTES = 64 * 2**20
_WHOLE_BYTES = 4 * 2**20
"""Up to here an array is one block: a file of small ones reads slowly."""


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of the parameter tree, not read yet.

  Attributes:
    shape: the array's.
    dtype: what `read` returns and the checkpoint holds.
    stacked: whether the first axis is N, the layers, which never share a block
      of a large array.
    split_axis: the axis along which a large array is cut; that whose slices
      are contiguous in the source.
    read: from a region, slices with start and stop, to the array there.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  stacked: bool
  split_axis: int
  read: Callable[[Region], np.ndarray]

  @property
  def block_shape(self) -> tuple[int, ...]:
    """At most 64 MiB, rounded up to a whole slice along `split_axis`."""
    size = math.prod(self.shape) * self.dtype.itemsize
    if size <= _WHOLE_BYTES:
      return self.shape
    block = [1 if self.stacked else self.shape[0], *self.shape[1:]]
    size = math.prod(block) * self.dtype.itemsize
    parts = min(math.ceil(size / _BLOCK_BYTES), block[self.split_axis])
    block[self.split_axis] = math.ceil(block[self.split_axis] / parts)
    return tuple(block)

  def regions(self) -> Iterator[Region]:
    """Yields each block's region."""
    axes = [
      [slice(start, min(start + step, size)) for start in range(0, size, step)]
      for size, step in zip(self.shape, self.block_shape, strict=True)
    ]
    return itertools.product(*axes)


class Handler(ocp.CheckpointableHandler):
  """Lets Orbax save a tree of `Leaf` among a checkpoint's other items."""

  async def save(self, directory, checkpointable):
    """Starts to write into `directory`, which Orbax is still creating."""

    async def start():
      path = await directory.await_creation()
      if jax.process_index() == 0:
        write(path, trees.flatten(checkpointable))

    return start()

  async def load(self, directory, abstract_checkpointable=None):
    """Is never called: Orbax's own handler reads what this one wrote."""
    raise NotImplementedError

  async def metadata(self, directory):
    """Is never called."""
    raise NotImplementedError

  def is_handleable(self, checkpointable: Any) -> bool:
    leaves = jax.tree.leaves(checkpointable)
    return all(isinstance(leaf, Leaf) for leaf in leaves)

  def is_abstract_handleable(self, abstract_checkpointable: Any) -> bool:
    return False


HANDLER_NAME = f"{Handler.__module__}.{Handler.__qualname__}"
"""What Orbax notes in a checkpoint that `Handler` wrote."""


def write(folder: epath.Path, leaves: Mapping[str, Leaf]) -> None:
  """Writes an Orbax parameter tree into `folder`, which is there and empty.

  Holds `_BLOCKS_AT_ONCE`: some are read while others are written.
  """
  store = {
    "driver": "ocdbt",
    "base": _kvstore(folder),
    # Orbax's: a small array's chunk lies in the index, and one writer needs
    # one manifest.
    "config": {
      "max_inline_value_bytes": 1024,
      "max_decoded_node_bytes": 100_000_000,
      "manifest_kind": "single",
    },
    "assume_config": True,
  }
  context = ts.Context()
  pool = futures.ThreadPoolExecutor(_BLOCKS_AT_ONCE)
  try:
    copies = [
      pool.submit(_copy, leaf, array, region)
      for path, leaf in leaves.items()
      for array in [_create(store, path, leaf, context)]
      for region in leaf.regions()
    ]
    for copy in copies:
      copy.result()
  finally:
    pool.shutdown(cancel_futures=True)
  metadata = {
    "tree_metadata": {
      repr(tuple(path.split(trees.SEPARATOR))): _leaf_metadata(path, leaf)
      for path, leaf in leaves.items()
    },
    "use_ocdbt": True,
    "use_zarr3": True,
    "store_array_data_equal_to_fill_value": True,
    "custom_metadata": None,
  }
  (folder / "_METADATA").write_text(json.dumps(metadata))


def _copy(leaf: Leaf, array: ts.TensorStore, region: Region) -> None:
  block = leaf.read(region)
  array[region].write(
    block, can_reference_source_data_indefinitely=True
  ).result()


def _create(
  store: dict[str, Any], path: str, leaf: Leaf, context: ts.Context
) -> ts.TensorStore:
  name = path.replace(trees.SEPARATOR, ".")
  spec = {
    "driver": "zarr3",
    "kvstore": store | {"path": f"{name}/"},
    # Orbax reads a chunk that is not there as a damaged checkpoint.
    "store_data_equal_to_fill_value": True,
    "metadata": {
      "shape": leaf.shape,
      "data_type": leaf.dtype.name,
      "chunk_grid": {
        "name": "regular",
        "configuration": {"chunk_shape": leaf.block_shape},
      },
      "codecs": [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "crc32c"},
      ],
    },
  }
  return ts.open(spec, create=True, context=context).result()


def _leaf_metadata(path: str, leaf: Leaf) -> dict[str, Any]:
  keys = path.split(trees.SEPARATOR)
  return {
    "key_metadata": [{"key": key, "key_type": 2} for key in keys],  # A dict's.
    "value_metadata": {
      "value_type": "jax.Array",
      "skip_deserialize": False,
      "write_shape": list(leaf.shape),
    },
  }


def _kvstore(path: epath.Path) -> dict[str, str]:
  text = str(path)
  if text.startswith("gs://"):
    bucket, _, inner = text.removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": inner + "/"}
  return {"driver": "file", "path": text + "/"}
