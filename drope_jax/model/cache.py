"""The key-value cache."""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from drope_jax import sharding
from drope_jax.axes import Array
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns

# The axis of slots.
_KEYS, _VALUES = -1, -2


class Ring(NamedTuple):
  """Keys and values of the n layers with a window of W tokens.

  Only the newest W tokens of a sequence are kept.

  Attributes:
    k_nBKDW, v_nBKWD: the token at position p is in slot p mod W.
  """

  k_nBKDW: Array
  v_nBKWD: Array


class Place(NamedTuple):
  """Where a layer's keys and values are.

  Attributes:
    index: int32, among the layers of the ring or among the others.
    in_ring: whether they are in the ring.
  """

  index: Array
  in_ring: Array


class View(NamedTuple):
  """What the queries of a layer read of the cache.

  Attributes:
    k_BTKD, v_BTKD: in order of position, or all in the windows of the queries.
    offset_B: index among them of a row's first query.
    all_visible: whether no window hides any of those up to a query's own.
  """

  k_BTKD: Array
  v_BTKD: Array
  offset_B: Array
  all_visible: bool


class Cache(NamedTuple):
  """Keys, normed and rotated, and values of all layers, padded on the right.

  Slots are the last axis of keys and the last but one of values, since
  decoding's matrix products read them so. XLA would copy, or read slowly, a
  cache of another layout.

  Attributes:
    k_NBKDT, v_NBKTD: T slots for each sequence; slot t holds position t. N
      counts the layers that are not in the ring.
    length_B: int32 tokens read so far. No query sees the slots after them,
      since they are in its future.
    ring: of the layers with a window; None: none of them are in a ring.
  """

  k_NBKDT: Array
  v_NBKTD: Array
  length_B: Array
  ring: Ring | None = None

  def places(self, windows: Sequence[int | None]) -> Place:
    """Returns the place of each layer, of its window or None; leads with N."""
    has_window = np.array([window is not None for window in windows])
    in_ring = has_window & (self.ring is not None)
    index = np.where(in_ring, in_ring.cumsum(), (~in_ring).cumsum()) - 1
    return Place(jnp.asarray(index, jnp.int32), jnp.asarray(in_ring))

  def write(
    self,
    place: Place,
    k_BSKD: Array,
    v_BSKD: Array,
    kept_B: Array,
    *,
    from_empty: bool,
  ) -> tuple["Cache", View | None, View | None]:
    """Returns the cache with S more tokens in a layer, and its two views.

    The first view is of a layer that is not in the ring, the second of one that
    is; None: there are no such layers. `length_B` stays as it is: the caller
    advances it once, after the last layer. It may be traced, so a token beyond
    the last slot is lost without an error. The caller makes a cache with room
    for all tokens.

    Args:
      place: of the layer.
      k_BSKD, v_BSKD: of the new tokens.
      kept_B: how many of them are real. The others are padding, at the end.
      from_empty: the caller promises that `length_B` is 0, and reads nothing.

    Raises:
      ValueError: even an empty cache has no room for S tokens.
    """
    S, (N, *_, T) = k_BSKD.shape[1], self.k_NBKDT.shape
    if S > T:
      raise ValueError(
        f"A key-value cache needs a slot for each token, got {T} slots for {S} "
        "tokens. Make it with a max_tokens of all that is read."
      )
    cache, whole, of_ring = self, None, None
    if N:
      is_own = True if self.ring is None else ~place.in_ring
      arguments = (place.index, is_own, self.length_B, from_empty)
      k_NBKDT = _write(self.k_NBKDT, _KEYS, k_BSKD, *arguments)
      v_NBKTD = _write(self.v_NBKTD, _VALUES, v_BSKD, *arguments)
      cache = cache._replace(k_NBKDT=k_NBKDT, v_NBKTD=v_NBKTD)
      k_BTKD, v_BTKD = (
        jnp.moveaxis(_layer(x_N, place.index), slots, 1)
        for x_N, slots in ((k_NBKDT, _KEYS), (v_NBKTD, _VALUES))
      )
      whole = View(k_BTKD, v_BTKD, self.length_B, False)
    if self.ring is not None:
      W = self.ring.k_nBKDW.shape[-1]
      is_own = place.in_ring if N else True
      arguments = (place.index, is_own, self.length_B, kept_B, from_empty)
      k_nBKDW, v_nBKWD = self.ring
      k_nBKDW, k_BTKD = _write_ring(k_nBKDW, _KEYS, k_BSKD, *arguments)
      v_nBKWD, v_BTKD = _write_ring(v_nBKWD, _VALUES, v_BSKD, *arguments)
      cache = cache._replace(ring=Ring(k_nBKDW, v_nBKWD))
      last = W - 1 if S == 1 else W
      offset_B = jnp.minimum(self.length_B, last)
      of_ring = View(k_BTKD, v_BTKD, offset_B, S == 1)
    return cache, whole, of_ring

  def repeated(self, times: int) -> "Cache":
    """Returns a cache of one row as that of `times` rows."""
    k_NBKDT, v_NBKTD, ring = jax.tree.map(
      lambda x_NB: jnp.repeat(x_NB, times, axis=1),
      (self.k_NBKDT, self.v_NBKTD, self.ring),
    )
    return Cache(k_NBKDT, v_NBKTD, jnp.repeat(self.length_B, times), ring)


def empty(
  config: ModelConfig, batch_size: int, max_tokens: int, dtype
) -> Cache:
  """Returns a cache of `max_tokens` slots for each of `batch_size` rows.

  Layers with a window have only as many slots as it has tokens, if all windows
  are the same. The order of keys in a ring says nothing, so no scheme may have
  a bias.
  """

  def zeros(layers: int, slots: int) -> tuple[Array, Array]:
    lead, D = (layers, batch_size, config.num_kv_heads), config.head_dim
    keys = jnp.zeros((*lead, D, slots), dtype)
    return keys, jnp.zeros((*lead, slots, D), dtype)

  plan = patterns.layer_plan(config.positional, config.num_layers)
  positions = plan.shapes(config.head_dim, config.num_heads)
  has_bias = (positions.slopes_H, positions.bias_HT) != (None, None)
  in_ring = [window for window in plan.windows if window is not None]
  ring = None
  if len({*in_ring}) == 1 and in_ring[0] < max_tokens and not has_bias:
    ring = Ring(*zeros(len(in_ring), in_ring[0]))
  N = config.num_layers - (len(in_ring) if ring else 0)
  k_NBKDT, v_NBKTD = zeros(N, max_tokens)
  length_B = jnp.zeros(batch_size, jnp.int32)
  return Cache(k_NBKDT, v_NBKTD, length_B, ring)


def shardings(cache: Cache, mesh: Mesh) -> Cache:
  """Returns how a mesh splits a cache.

  It splits sequences, heads and, over `context`, slots. A ring's slots stay
  whole, and so do heads and slots that do not divide evenly.
  """
  texts, tokens = sharding.BATCH
  K, _, T = cache.k_NBKDT.shape[2:]
  by_head = P(None, texts, None if K % mesh.shape["tensor"] else "tensor")
  keys = values = by_head
  if mesh.shape[tokens] > 1 and not T % mesh.shape[tokens]:
    keys, values = P(*by_head, None, tokens), P(*by_head, tokens)
  ring = NamedSharding(mesh, by_head)
  return Cache(
    NamedSharding(mesh, keys),
    NamedSharding(mesh, values),
    NamedSharding(mesh, P(texts)),
    None if cache.ring is None else Ring(ring, ring),
  )


def _write(
  cached_N: Array,
  slots: int,
  x_BSKD: Array,
  layer: Array,
  is_own: Array | bool,
  length_B: Array,
  from_empty: bool,
) -> Array:
  """Returns keys or values with S more tokens in a layer, if it is its own."""
  B, S = x_BSKD.shape[:2]
  if from_empty:  # One block; a scatter would need another layout.
    x_B = jnp.moveaxis(x_BSKD, 1, slots)
    return _put(cached_N, slots, layer, is_own, x_B)
  row_B1 = jnp.arange(B)[:, None]
  slot_BS = length_B[:, None] + jnp.arange(S)
  # What is beyond the last layer is dropped.
  layer = jnp.where(is_own, layer, len(cached_N))
  return cached_N.at[layer, row_B1, *_at(slots, slot_BS)].set(x_BSKD)


def _write_ring(
  cached_n: Array,
  slots: int,
  x_BSKD: Array,
  layer: Array,
  is_own: Array | bool,
  length_B: Array,
  kept_B: Array,
  from_empty: bool,
) -> tuple[Array, Array]:
  """Returns keys or values with S more tokens in a layer, and what is read.

  One token reads the whole ring; several read the window before them, in order
  of position, and themselves.
  """
  n, W = len(cached_n), cached_n.shape[slots]
  B, S = x_BSKD.shape[:2]
  if S == 1 and not from_empty:
    slot_B = jnp.where(kept_B > 0, length_B % W, W)
    own = jnp.where(is_own, layer, n)
    index = (own, jnp.arange(B), *_at(slots, slot_B))
    cached_n = cached_n.at[index].set(x_BSKD[:, 0])
    return cached_n, jnp.moveaxis(_layer(cached_n, layer), slots, 1)
  x_B, first_B = jnp.moveaxis(x_BSKD, 1, slots), jnp.zeros_like(length_B)
  if not from_empty:
    first_B = jnp.maximum(length_B - W, 0)
    oldest_BW = (first_B[:, None] + jnp.arange(W)) % W
    before_B = _take(_layer(cached_n, layer), slots, oldest_BW)
    join = functools.partial(_joined, slots)
    x_B = jax.vmap(join)(before_B, x_B, length_B - first_B)
  last_B1 = (length_B + kept_B - 1)[:, None]
  pos_BW = last_B1 - (last_B1 - jnp.arange(W)) % W
  # A position below 0 is a slot that no query sees before it is written.
  newest_B = _take(x_B, slots, jnp.maximum(pos_BW - first_B[:, None], 0))
  cached_n = _put(cached_n, slots, layer, is_own, newest_B)
  return cached_n, jnp.moveaxis(x_B, slots, 1)


def _layer(cached_N: Array, layer: Array) -> Array:
  return jax.lax.dynamic_index_in_dim(cached_N, layer, keepdims=False)


def _put(
  cached_N: Array, slots: int, layer: Array, is_own: Array | bool, x_B: Array
) -> Array:
  """Returns the array with a layer's first slots, if they are its own."""
  first = _at(slots, slice(x_B.shape[slots]))
  if is_own is not True:
    x_B = jnp.where(is_own, x_B, _layer(cached_N, layer)[:, *first])
  return cached_N.at[layer, :, *first].set(x_B)


def _at(slots: int, index: Any) -> tuple[Any, ...]:
  """Returns the index of some slots, from the axis of heads on."""
  return *(slice(None),) * (3 + slots), index


def _take(x_B: Array, slots: int, index_BS: Array) -> Array:
  heads_and_channels = (1, 2 if slots == _KEYS else 3)
  index = jnp.expand_dims(index_BS, heads_and_channels)
  return jnp.take_along_axis(x_B, index, axis=slots)


def _joined(slots: int, before: Array, x: Array, start: Array) -> Array:
  """Returns both in W + S slots, the second from slot `start`.

  What is after them is in the future of every query.
  """
  room = jnp.concatenate([before, x], axis=slots)
  return jax.lax.dynamic_update_slice_in_dim(room, x, start, axis=slots)
