"""A checksum of each array, independent of the mesh.

Orbax stores arrays in OCDBT, with Zarr chunks that have no checksums.
"""

from collections.abc import Mapping
import json
from typing import Any
import zlib

import jax
import jax.numpy as jnp

from drope_jax import trees


def of_arrays(tree: Any) -> dict[str, str]:
  """Returns each array's dtype and checksum, e.g. "int32:00c0ffee", by path.

  The checksum is the sum, modulo 2^32, of each element's bits times an odd
  weight that depends on its place in the array. A change of one bit changes it.
  Summation order and sharding do not matter.
  """
  sums = jax.tree.leaves(jax.device_get(_sums(tree)))
  leaves = jax.tree.leaves_with_path(tree)
  return {
    jax.tree_util.keystr(
      path, simple=True, separator=trees.SEPARATOR
    ): f"{leaf.dtype.name}:{found:08x}"
    for (path, leaf), found in zip(leaves, sums, strict=True)
  }


def of_json(data: Any) -> str:
  """Returns the checksum of a JSON value."""
  return f"json:{zlib.crc32(json.dumps(data, sort_keys=True).encode()):08x}"


def require_same(found: Mapping[str, str], saved: Mapping[str, str]) -> None:
  """Checks the checksums of what was read against those that were saved.

  Skips paths that were not saved, or were read in another dtype.

  Raises:
    ValueError: naming the paths that have changed.
  """
  changed = [
    path
    for path, checksum in found.items()
    if path in saved
    and saved[path] != checksum
    and saved[path].split(":")[0] == checksum.split(":")[0]
  ]
  if changed:
    raise ValueError(f"not what was saved: {', '.join(changed)}")


@jax.jit
def _sums(tree):
  return jax.tree.map(_sum, tree)


def _sum(x):
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
  bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    place = place * size + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
