"""What analyses keep of attention's weights: see `attention.Reader`."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax.numpy as jnp

from drope_jax import attention
from drope_jax.axes import Array


@dataclasses.dataclass(frozen=True)
class ByOffset:
  """The mean weight, mean_BHO, on the key so many tokens before the query.

  Attributes:
    offsets: O of them, tokens; 0 is the query itself. A mean is over the
      queries that have such a key, and 0 where none has.
  """

  offsets: tuple[int, ...]

  def start(self, num_rows: int, num_heads: int, num_queries: int) -> Array:
    return jnp.zeros((num_rows, num_heads, len(self.offsets)))

  def read(self, found: Array, weights_BHcT: Array, query_c: Array) -> Array:
    offset_O = jnp.asarray(self.offsets)
    on_BHcO = _at_offset(weights_BHcT, query_c, offset_O)
    num_queries = weights_BHcT.shape[-1]  # As many as keys, without a cache.
    return found + on_BHcO.sum(2) / jnp.maximum(num_queries - offset_O, 1)


@dataclasses.dataclass(frozen=True)
class OffsetBias:
  """The positional bias toward a key at an offset, A_BH.

  A query i has i keys, itself included. c is 1 for the key at the offset and
  -1 / (i - 1) for the others, so that the row's sum is 0. A query without a key
  at the offset, or without others, has c = 0. So
  A = 1/T sum_i (i a_i - 1) / (i - 1), where a_i is the weight at the offset:
  0 for uniform attention, and at most 1.

  Attributes:
    offset: tokens before the query; 0 for a diagonal head, 1 for a head of the
      previous token.

  Source: arXiv:2512.12167, Definition 3.1 and the example after it.
  """

  offset: int

  def start(self, num_rows: int, num_heads: int, num_queries: int) -> Array:
    return jnp.zeros((num_rows, num_heads))

  def read(self, found: Array, weights_BHcT: Array, query_c: Array) -> Array:
    offset_1 = jnp.asarray([self.offset])
    on_BHc = _at_offset(weights_BHcT, query_c, offset_1)[..., 0]
    others_c = jnp.maximum(query_c, 1)
    row_BHc = ((query_c + 1) * on_BHc - 1) / others_c
    row_BHc = jnp.where(query_c >= max(self.offset, 1), row_BHc, 0.0)
    return found + row_BHc.sum(-1) / weights_BHcT.shape[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class GivenBias:
  """The positional bias A_BH of any centered weights.

  Attributes:
    c_ST: float32; a row's entries up to its query sum to 0
      (`require_centered`), and those beyond it mean nothing.

  Source: arXiv:2512.12167, Definition 3.1.
  """

  c_ST: Array

  def start(self, num_rows: int, num_heads: int, num_queries: int) -> Array:
    return jnp.zeros((num_rows, num_heads))

  def read(self, found: Array, weights_BHcT: Array, query_c: Array) -> Array:
    c_cT = jnp.asarray(self.c_ST)[query_c]
    total_BH = jnp.einsum("bhct,ct->bh", weights_BHcT, c_cT)
    return found + total_BH / weights_BHcT.shape[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class OfQuery:
  """The weights of one query, weights_BHT.

  Attributes:
    query: its index; int32 scalar.
  """

  query: Array | int

  def start(self, num_rows: int, num_heads: int, num_queries: int) -> Array:
    return jnp.zeros((num_rows, num_heads, num_queries))

  def read(self, found: Array, weights_BHcT: Array, query_c: Array) -> Array:
    at = jnp.clip(self.query - query_c[0], 0, len(query_c) - 1)
    return jnp.where(query_c[at] == self.query, weights_BHcT[:, :, at], found)


@dataclasses.dataclass(frozen=True)
class FirstKey:
  """The mean weight on the first token, mean_BH, over all other queries."""

  def start(self, num_rows: int, num_heads: int, num_queries: int) -> Array:
    return jnp.zeros((num_rows, num_heads))

  def read(self, found: Array, weights_BHcT: Array, query_c: Array) -> Array:
    on_BHc = jnp.where(query_c > 0, weights_BHcT[..., 0], 0.0)
    return found + on_BHc.sum(-1) / max(weights_BHcT.shape[-1] - 1, 1)


@dataclasses.dataclass(frozen=True)
class Together:
  """What several readers find, as a tuple."""

  readers: Sequence[attention.Reader]

  def start(self, *shape: int) -> tuple[Any, ...]:
    return tuple(reader.start(*shape) for reader in self.readers)

  def read(
    self, found: tuple[Any, ...], weights_BHcT: Array, query_c: Array
  ) -> tuple[Any, ...]:
    return tuple(
      reader.read(one, weights_BHcT, query_c)
      for reader, one in zip(self.readers, found, strict=True)
    )


def _at_offset(weights_BHcT: Array, query_c: Array, offset_O: Array) -> Array:
  """Returns each query's weights on_BHcO; 0 where there is no such key."""
  key_cO = query_c[:, None] - offset_O
  at_BHcO = jnp.take_along_axis(
    weights_BHcT, jnp.maximum(key_cO, 0)[None, None], axis=-1
  )
  return jnp.where(key_cO >= 0, at_BHcO, 0.0)
