"""Keys and values of the tokens read so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from drope_jax.axes import Array
from drope_jax.model.config import ModelConfig


class Cache(NamedTuple):
  """Keys (with positions and norms in them) and values, right-padded.

  Attributes:
    k_NBTKD, v_NBTKD: T slots a sequence; slot t holds position t.
    length_B: int32 tokens read so far. Slots from there on hold nothing that
      any query sees, since they lie in its future.
  """

  k_NBTKD: Array
  v_NBTKD: Array
  length_B: Array

  def write(
    self, layer: Array, k_BSKD: Array, v_BSKD: Array
  ) -> tuple["Cache", Array, Array]:
    """Returns the cache with S more tokens in one layer, and that layer.

    `length_B` stays: the caller advances it once, after the last layer. Since
    it may be traced, a token past the last slot is lost without an error: the
    caller makes room for all that is read.

    Raises:
      ValueError: even an empty cache has no room for S tokens.
    """
    B, S = k_BSKD.shape[:2]
    T = self.k_NBTKD.shape[2]
    if S > T:
      raise ValueError(
        f"A key-value cache needs a slot for each token, got {T} slots for {S} "
        "tokens. Make it with a max_tokens of all that is read."
      )
    row_B1 = jnp.arange(B)[:, None]
    slot_BS = self.length_B[:, None] + jnp.arange(S)
    k_NBTKD = self.k_NBTKD.at[layer, row_B1, slot_BS].set(k_BSKD)
    v_NBTKD = self.v_NBTKD.at[layer, row_B1, slot_BS].set(v_BSKD)
    return (
      Cache(k_NBTKD, v_NBTKD, self.length_B),
      jax.lax.dynamic_index_in_dim(k_NBTKD, layer, keepdims=False),
      jax.lax.dynamic_index_in_dim(v_NBTKD, layer, keepdims=False),
    )


def empty(
  config: ModelConfig, batch_size: int, max_tokens: int, dtype
) -> Cache:
  """Returns a cache of `max_tokens` slots for each of `batch_size` rows."""
  shape = (
    config.num_layers,
    batch_size,
    max_tokens,
    config.num_kv_heads,
    config.head_dim,
  )
  return Cache(
    jnp.zeros(shape, dtype),
    jnp.zeros(shape, dtype),
    jnp.zeros(batch_size, jnp.int32),
  )
