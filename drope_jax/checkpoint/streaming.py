"""Writing parameters block by block, so that none is held whole in memory.

The files are those that Orbax writes: zarr3 arrays in one OCDBT store, and the
tree's `_METADATA`. Each block is an uncompressed chunk.
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
from drope_jax.data import paths

Region = tuple[slice, ...]

_BLOCKS_AT_ONCE = 4
_BLOCK_BYTES = 64 * 2**20
_WHOLE_BYTES = 4 * 2**20
"""An array up to this size is one block: small chunks read slowly."""


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of the parameter tree, not read yet.

  Attributes:
    shape: of the array.
    dtype: of the blocks that `read` returns, and in the checkpoint.
    stacked: whether the first axis is N, the layers. Layers of a large array do
      not share a block.
    split_axis: the axis along which a large array is split. Its slices are
      contiguous in the source.
    read: takes a region, slices with start and stop; returns the array there.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  stacked: bool
  split_axis: int
  read: Callable[[Region], np.ndarray]

  @property
  def block_shape(self) -> tuple[int, ...]:
    """Shape of a block: at most 64 MiB, rounded up to whole slices."""
    size = math.prod(self.shape) * self.dtype.itemsize
    if size <= _WHOLE_BYTES:
      return self.shape
    block = [1 if self.stacked else self.shape[0], *self.shape[1:]]
    size = math.prod(block) * self.dtype.itemsize
    parts = min(math.ceil(size / _BLOCK_BYTES), block[self.split_axis])
    block[self.split_axis] = math.ceil(block[self.split_axis] / parts)
    return tuple(block)

  def regions(self) -> Iterator[Region]:
    """Yields the region of each block."""
    axes = [
      [slice(start, min(start + step, size)) for start in range(0, size, step)]
      for size, step in zip(self.shape, self.block_shape, strict=True)
    ]
    return itertools.product(*axes)


class Handler(ocp.CheckpointableHandler):
  """Lets Orbax save a tree of `Leaf` with a checkpoint's other items."""

  async def save(self, directory, checkpointable):
    """Starts to write into `directory`, once Orbax has created it."""

    async def start():
      path = await directory.await_creation()
      if jax.process_index() == 0:
        write(path, trees.flatten(checkpointable))

    return start()

  async def load(self, directory, abstract_checkpointable=None):
    """Is never called: Orbax's own handler reads the files."""
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
"""The name that Orbax stores in a checkpoint that `Handler` wrote."""


def write(folder: epath.Path, leaves: Mapping[str, Leaf]) -> None:
  """Writes an Orbax parameter tree into the empty folder `folder`.

  At most `_BLOCKS_AT_ONCE` blocks are in memory.
  """
  store = {
    "driver": "ocdbt",
    "base": paths.kvstore(folder),
    # Orbax's settings. Small chunks are stored in the index; a single writer
    # needs a single manifest.
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
    # A chunk of zeros must be written: Orbax takes a missing one for damage.
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
    "key_metadata": [{"key": key, "key_type": 2} for key in keys],  # 2: a dict.
    "value_metadata": {
      "value_type": "jax.Array",
      "skip_deserialize": False,
      "write_shape": list(leaf.shape),
    },
  }
