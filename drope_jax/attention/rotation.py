"""The rotation of queries and keys, for a kernel to apply as it loads them."""

from typing import NamedTuple

import jax.numpy as jnp

from drope_jax.axes import Array


class Rotation(NamedTuple):
  """What turns each query and key: x * cos + swap(x) * sin.

  `swap` exchanges the halves of a head's channels.

  Attributes:
    q_N2SD: float32 cosines and sines of N schemes by query; sines of the first
      half are negated.
    k_N2TD: the same by key.
    index: which of N to use; int32 scalar, may be traced.
  """

  q_N2SD: Array
  k_N2TD: Array
  index: Array


def rotate(x_SD: Array, turn_2SD: Array) -> Array:
  """Returns float32 x, rotated."""
  half = x_SD.shape[1] // 2
  swapped_SD = jnp.concatenate([x_SD[:, half:], x_SD[:, :half]], axis=1)
  return x_SD * turn_2SD[0] + swapped_SD * turn_2SD[1]


def rotate_back(x_SD: Array, turn_2SD: Array) -> Array:
  """Returns float32 x under the transpose of `rotate`, as gradients are."""
  half = x_SD.shape[1] // 2
  swapped_SD = jnp.concatenate([x_SD[:, half:], x_SD[:, :half]], axis=1)
  # Sines change their sign with the half.
  return x_SD * turn_2SD[0] - swapped_SD * turn_2SD[1]
