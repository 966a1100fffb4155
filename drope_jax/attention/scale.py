"""The scale of the logits, folded into the queries."""

import jax.numpy as jnp

from drope_jax.axes import Array


def fold(q_BSHD: Array, scale: Array | float) -> Array:
  """Returns scale times q in q's dtype, rounded once.

  Args:
    q_BSHD: queries.
    scale: one for all, or one a query as float32 [B, S].
  """
  scale = jnp.asarray(scale, jnp.float32)
  if scale.ndim:
    scale = scale[:, :, None, None]
  return (q_BSHD * scale).astype(q_BSHD.dtype)
