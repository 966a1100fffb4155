"""The key-value cache."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from drope_jax.axes import Array
from drope_jax.model.config import ModelConfig


class Cache(NamedTuple):
  """Keys, normed and rotated, and values of all layers, padded on the right.

  Slots are the last axis, since decoding's matrix products read them so. XLA
  would copy a cache of another layout.

  Attributes:
    k_NBKDT, v_NBKDT: T slots for each sequence; slot t holds position t.
    length_B: int32 tokens read so far. No query sees the slots after them,
      since they are in its future.
  """

  k_NBKDT: Array
  v_NBKDT: Array
  length_B: Array

  def write(
    self, layer: Array, k_BSKD: Array, v_BSKD: Array, *, from_empty: bool
  ) -> tuple["Cache", Array, Array]:
    """Returns the cache with S more tokens in a layer, and its k_BTKD, v_BTKD.

    `length_B` stays as it is: the caller advances it once, after the last
    layer. It may be traced, so a token beyond the last slot is lost without an
    error. The caller makes a cache with room for all tokens.

    Args:
      layer: its index.
      k_BSKD, v_BSKD: of the new tokens.
      from_empty: the caller promises that `length_B` is 0.

    Raises:
      ValueError: even an empty cache has no room for S tokens.
    """
    B, S = k_BSKD.shape[:2]
    T = self.k_NBKDT.shape[-1]
    if S > T:
      raise ValueError(
        f"A key-value cache needs a slot for each token, got {T} slots for {S} "
        "tokens. Make it with a max_tokens of all that is read."
      )

    def written(cached_NBKDT: Array, x_BSKD: Array) -> Array:
      if from_empty:  # One block; a scatter would need another layout.
        x_BKDS = jnp.moveaxis(x_BSKD, 1, -1)
        return cached_NBKDT.at[layer, ..., :S].set(x_BKDS)
      row_B1 = jnp.arange(B)[:, None]
      slot_BS = self.length_B[:, None] + jnp.arange(S)
      return cached_NBKDT.at[layer, row_B1, :, :, slot_BS].set(x_BSKD)

    def read(cached_NBKDT: Array) -> Array:
      x_BKDT = jax.lax.dynamic_index_in_dim(cached_NBKDT, layer, keepdims=False)
      return jnp.moveaxis(x_BKDT, -1, 1)

    k_NBKDT = written(self.k_NBKDT, k_BSKD)
    v_NBKDT = written(self.v_NBKDT, v_BSKD)
    cache = Cache(k_NBKDT, v_NBKDT, self.length_B)
    return cache, read(k_NBKDT), read(v_NBKDT)

  def repeated(self, times: int) -> "Cache":
    """Returns a cache of one row as that of `times` rows."""
    return Cache(
      jnp.repeat(self.k_NBKDT, times, axis=1),
      jnp.repeat(self.v_NBKDT, times, axis=1),
      jnp.repeat(self.length_B, times),
    )


def empty(
  config: ModelConfig, batch_size: int, max_tokens: int, dtype
) -> Cache:
  """Returns a cache of `max_tokens` slots for each of `batch_size` rows."""
  shape = (
    config.num_layers,
    batch_size,
    config.num_kv_heads,
    config.head_dim,
    max_tokens,
  )
  return Cache(
    jnp.zeros(shape, dtype),
    jnp.zeros(shape, dtype),
    jnp.zeros(batch_size, jnp.int32),
  )
