"""The rotation of queries and keys."""

from typing import NamedTuple

import jax.numpy as jnp

from drope_jax.axes import Array


class Rotation(NamedTuple):
  """How a kernel is to rotate queries and keys as it loads them.

  Attributes:
    q_N2SD: float32 cosines and sines of N schemes by query, for `rotate`.
    k_N2TD: the same by key.
    index: which of N to use; int32 scalar, may be traced.
  """

  q_N2SD: Array
  k_N2TD: Array
  index: Array


def rotate(x: Array, cos: Array, sin: Array) -> Array:
  """Returns float32 x * cos + swap(x) * sin; `swap` exchanges a head's halves.

  Channels lie on the last axis. Sines of the two halves are opposite, so
  `rotate(x, cos, -sin)` is the transpose, by which gradients are rotated.
  """
  first, second = jnp.split(x, 2, axis=-1)
  return x * cos + jnp.concatenate([second, first], axis=-1) * sin
