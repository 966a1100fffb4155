"""A bias by distance, laid out by query and key."""

import jax
import jax.numpy as jnp

from drope_jax.axes import Array


def by_key(bias_HT: Array, position_BS: Array, num_keys: int) -> Array:
  """Returns what each query adds to its logits, bias_BHSt of t keys.

  Entries of keys ahead of their query mean nothing; causality hides them.

  Args:
    bias_HT: float32, by query position minus key position.
    position_BS: int32, of the queries, below T.
    num_keys: t; keys are at positions 0 to t - 1.
  """
  T = bias_HT.shape[1]
  # Backwards, a query's row is one stretch of it: distances fall as keys rise.
  backwards_HL = jnp.pad(bias_HT[:, ::-1], ((0, 0), (0, num_keys)))

  def row_Ht(position: Array) -> Array:
    return jax.lax.dynamic_slice_in_dim(
      backwards_HL, T - 1 - position, num_keys, axis=1
    )

  rows_HSt = jax.vmap(row_Ht, out_axes=1)
  return jax.vmap(rows_HSt)(position_BS)
