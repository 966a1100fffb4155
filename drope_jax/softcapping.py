"""Soft caps of logits, as of Gemma 2 (arXiv:2408.00118)."""

import jax.numpy as jnp

from drope_jax.axes import Array


def cap(logits: Array, soft_cap: float | None) -> Array:
  """Returns logits within (-soft_cap, soft_cap); unchanged if it is None."""
  if soft_cap is None:
    return logits
  return soft_cap * jnp.tanh(logits / soft_cap)


def slope(capped: Array, soft_cap: float) -> Array:
  """Returns the derivative of `cap` where it returned `capped`."""
  return 1 - jnp.square(capped / soft_cap)
