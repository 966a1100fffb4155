"""A unit's logits: their product, bias and mask."""

from collections.abc import Callable
from typing import NamedTuple

from jax import lax
import jax.numpy as jnp

from drope_jax.attention.flash_tpu import tiles
from drope_jax.attention.flash_tpu.pipeline import Unit
from drope_jax.axes import Array

HIDDEN = -2e38
"""A hidden logit. A row's maximum starts at half of it, so that its weight is
exp2(-1e38) = 0 even in a row that sees nothing."""

EMPTY = 1e38
"""The log-sum-exp of such a row in the backward pass: its weights are
exp2(HIDDEN - EMPTY) = 0."""

_LANES = 128


class Position(NamedTuple):
  """The position of a part, and what hides keys in it.

  Attributes:
    distance: position of the first query minus that of the first key.
    tile_distance: the same for the tile's first query.
    window: traced, or None.
    q_segment_1S: of the part's queries, or None.
    k_segment_TL: takes where a unit's keys begin in the part, and returns their
      segments in each of `_LANES` columns.
    slope: ALiBi's, for logits in base 2; traced, or None.
  """

  distance: Array
  tile_distance: Array
  window: Array | None
  q_segment_1S: Array | None
  k_segment_TL: Callable[[int], Array] | None
  slope: Array | None


def mask_logits(logits_TS: Array, unit: Unit, position: Position) -> Array:
  """Returns a unit's logits with ALiBi's bias; hidden ones are `HIDDEN`.

  The bias is that of the tile's first query. It differs from the true bias by
  the same amount for all keys of a query, see `bias_shift_1S`.
  """
  T, S = logits_TS.shape
  if position.slope is not None:
    key_TL = lax.broadcasted_iota(jnp.int32, (T, _LANES), 0)
    back_TL = (position.tile_distance - unit.k) - key_TL
    # Subtracted: the compiler would fuse an addition into the product's sum,
    # which takes v6e's matrix unit twice as long.
    logits_TS -= _repeated(position.slope * back_TL.astype(jnp.float32), S)
  kind = unit.part.kind
  on_diagonal = kind in tiles.ON_DIAGONAL
  begin = unit.q - unit.k
  crossed = kind == tiles.PARTIAL or (on_diagonal and begin < T - 1)
  if not on_diagonal:
    begin += position.distance
  # Query position minus key position, both from the unit's first.
  distance_TS = lax.broadcasted_iota(jnp.int32, (T, S), 1)
  distance_TS -= lax.broadcasted_iota(jnp.int32, (T, S), 0)
  if crossed:
    logits_TS = jnp.where(distance_TS >= -begin, logits_TS, HIDDEN)
  if position.window is not None:
    # Numbers, not booleans: a minimum is one operation an element, a select is
    # two. The compiler reuses them for units on the same diagonal of the part.
    inside_TS = distance_TS < position.window - begin
    most_TS = jnp.where(inside_TS, jnp.inf, HIDDEN)
    logits_TS = jnp.minimum(logits_TS, most_TS)
  if position.q_segment_1S is not None:
    q_1S = position.q_segment_1S[:, unit.q : unit.q + S]
    assert position.k_segment_TL is not None  # Both come together.
    k_TL = position.k_segment_TL(unit.k)
    logits_TS = jnp.where(q_1S == _repeated(k_TL, S), logits_TS, HIDDEN)
  return logits_TS


def _repeated(x_TL: Array, S: int) -> Array:
  """Returns S columns that repeat those of x, in the same registers."""
  return jnp.concatenate([x_TL] * -(-S // _LANES), axis=1)[:, :S]


def bias_shift_1S(
  first: Array | int, size: int, slope: Array | None
) -> Array | float:
  """Returns how much too large the bias in `mask_logits` is for each query.

  Args:
    first: where the queries begin in the tile.
    size: how many there are.
    slope: ALiBi's; None: no bias.
  """
  if slope is None:
    return 0.0
  query_1S = first + lax.broadcasted_iota(jnp.int32, (1, size), 1)
  return slope * query_1S.astype(jnp.float32)


def column_TL(row_1T: Array) -> Array:
  """Returns a vector along lanes as each of `_LANES` columns."""
  return jnp.broadcast_to(row_1T, (_LANES, row_1T.shape[1])).T


def matmul(a: Array, b: Array, contract: tuple[int, int]) -> Array:
  """Returns the float32 product over one axis of each."""
  precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  return lax.dot_general(
    a,
    b,
    ((contract[:1], contract[1:]), ((), ())),
    precision=precision,
    preferred_element_type=jnp.float32,
  )
