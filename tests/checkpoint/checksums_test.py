import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.checkpoint import checksums


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
def test_a_changed_bit_changes_the_checksum(dtype):
  rng = np.random.default_rng(0)
  x = rng.integers(0, 2, (3, 5)).astype(jnp.dtype(dtype))
  whole = checksums.of_arrays({"x": x})
  assert whole["x"].startswith(f"{dtype}:")
  for bit in [0] if dtype == "bool" else range(8 * x.itemsize):
    damaged = bytearray(x.tobytes())
    damaged[(7 * x.itemsize) + bit // 8] ^= 1 << bit % 8
    y = np.frombuffer(damaged, x.dtype).reshape(x.shape)
    with pytest.raises(ValueError, match="not what was saved: x"):
      checksums.require_same(checksums.of_arrays({"x": y}), whole)
  swapped = x[::-1]
  assert not np.array_equal(swapped, x)
  assert checksums.of_arrays({"x": swapped}) != whole


def test_the_checksum_is_the_same_on_every_mesh():
  x = jax.random.normal(jax.random.key(0), (8, 16))
  mesh = jax.make_mesh((4, 2), ("a", "b"))
  split = jax.device_put(x, jax.NamedSharding(mesh, jax.P("b", "a")))
  assert checksums.of_arrays([split]) == checksums.of_arrays([x])


def test_unsaved_and_cast_arrays_are_not_compared():
  saved = {"x": "float32:0", "y": "float32:1"}
  checksums.require_same({"x": "bfloat16:7", "z": "int32:2"}, saved)
