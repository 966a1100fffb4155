"""Units: the parts of a tile that pass through a kernel's pipeline one by one.

Scores lie transposed, keys along sublanes and queries along lanes: a row's
maximum, sum and scale are then vectors of one value a lane, which broadcast for
nothing, and the products with values and keys need no transposed scores.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

from jax import lax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from drope_jax.attention.flash_tpu import tiles
from drope_jax.axes import Array

HIDDEN = -2e38
"""A hidden logit. A row's maximum starts at half of it, so that its weight is
exp2(-1e38) = 0 even where a row sees nothing."""

EMPTY = 1e38
"""The log-sum-exp of such a row in the backward pass, which makes its weights
exp2(HIDDEN - EMPTY) = 0."""

_LANES = 128


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How a kernel cuts its work.

  Attributes:
    q, k: queries and keys of a tile.
    unit_q, unit_k: of a unit; they divide the tile's.
    ahead: how many units' scores are computed before the first is used.
    behind: how many units' weights wait before they meet the values.
    mxu_total: whether the forward pass leaves the weights' sum to the matrix
      unit, as a product with ones, and not to the vector unit.
  """

  q: int
  k: int
  unit_q: int
  unit_k: int
  ahead: int
  behind: int
  mxu_total: bool = False

  def __post_init__(self):
    if self.q % self.unit_q or self.k % self.unit_k:
      raise ValueError(
        "A tile must be made of whole units, got tiles of "
        f"{self.q} x {self.k} and units of {self.unit_q} x {self.unit_k}. "
        "Choose units that divide the tile."
      )

  def fitted(self, S: int, T: int) -> "Blocks":
    """Returns blocks no larger than S queries and T keys need."""
    unit_q = min(self.unit_q, -(-S // _LANES) * _LANES)
    unit_k = min(self.unit_k, -(-T // _LANES) * _LANES)
    return dataclasses.replace(
      self,
      q=min(self.q, -(-S // unit_q) * unit_q),
      k=min(self.k, -(-T // unit_k) * unit_k),
      unit_q=unit_q,
      unit_k=unit_k,
    )

  @property
  def tile(self) -> tuple[int, int]:
    return self.q, self.k


class Unit(NamedTuple):
  """One unit: where it begins in its tile."""

  q: int
  k: int

  def queries(self, blocks: Blocks) -> Any:
    """Returns its rows of a block of queries."""
    return pl.ds(self.q, blocks.unit_q)

  def keys(self, blocks: Blocks) -> Any:
    """Returns its rows of a block of keys."""
    return pl.ds(self.k, blocks.unit_k)


def of_tile(blocks: Blocks, kind: int) -> list[Unit]:
  """Returns the units of a tile that show something."""
  units = [
    Unit(q, k)
    for q in range(0, blocks.q, blocks.unit_q)
    for k in range(0, blocks.k, blocks.unit_k)
  ]
  if kind not in tiles.ON_DIAGONAL:
    return units
  return [unit for unit in units if unit.k < unit.q + blocks.unit_q]


def pipeline(
  units: list[Unit],
  blocks: Blocks,
  begin: Callable[[Unit], Any],
  weigh: Callable[[Unit, Any], Any],
  end: Callable[[Unit, Any], None],
) -> None:
  """Runs three stages on every unit, overlapped across units.

  The compiler keeps the order of the matrix unit's work. While it computes one
  unit's scores, the vector unit has another's to weigh.
  """
  scores, weights = {}, {}
  for n in range(-blocks.ahead, len(units) + blocks.behind):
    if (coming := n + blocks.ahead) < len(units):
      scores[coming] = begin(units[coming])
    if (going := n - blocks.behind) in weights:
      end(units[going], weights.pop(going))
    if n in scores:
      weights[n] = weigh(units[n], scores.pop(n))
  for n in list(weights):
    end(units[n], weights.pop(n))


class Position(NamedTuple):
  """Where a tile lies, and what hides keys in it.

  Attributes:
    kind: of `tiles`; static.
    distance: the first query's position minus the first key's; traced.
    window: traced, or None.
    q_segment_1S: of the tile's queries, or None.
    k_segment_TL: takes where a unit's keys begin, and returns theirs in each of
      `_LANES` columns.
    slope: ALiBi's, for logits in base 2; traced, or None.
  """

  kind: int
  distance: Array
  window: Array | None
  q_segment_1S: Array | None
  k_segment_TL: Callable[[int], Array] | None
  slope: Array | None


def mask_logits(logits_TS: Array, unit: Unit, position: Position) -> Array:
  """Returns a unit's logits with ALiBi's bias, and hidden ones at `HIDDEN`.

  The bias is that of a query at the tile's first position: it differs from the
  true one by the same amount for all keys of a query, see `bias_shift_1S`.
  """
  T, S = logits_TS.shape
  if position.slope is not None:
    key_TL = lax.broadcasted_iota(jnp.int32, (T, _LANES), 0)
    back_TL = (position.distance - unit.k) - key_TL
    # Subtracted: an addition would start the product's sum, which takes v6e's
    # matrix unit twice as long.
    logits_TS -= _repeated(position.slope * back_TL.astype(jnp.float32), S)
  on_diagonal = position.kind in tiles.ON_DIAGONAL
  begin = unit.q - unit.k
  crossed = position.kind == tiles.PARTIAL or (on_diagonal and begin < T - 1)
  if not on_diagonal:
    begin += position.distance
  # Of query positions minus key positions, counted from the unit's first.
  distance_TS = lax.broadcasted_iota(jnp.int32, (T, S), 1)
  distance_TS -= lax.broadcasted_iota(jnp.int32, (T, S), 0)
  if crossed:
    logits_TS = jnp.where(distance_TS >= -begin, logits_TS, HIDDEN)
  if position.window is not None:
    # As numbers, which the compiler keeps for all units on the same diagonal of
    # the tile: a minimum is one operation an element, a mask's use is two.
    inside_TS = distance_TS < position.window - begin
    most_TS = jnp.where(inside_TS, jnp.inf, HIDDEN)
    logits_TS = jnp.minimum(logits_TS, most_TS)
  if position.q_segment_1S is not None:
    q_1S = position.q_segment_1S[:, unit.q : unit.q + S]
    k_TL = position.k_segment_TL(unit.k)
    logits_TS = jnp.where(q_1S == _repeated(k_TL, S), logits_TS, HIDDEN)
  return logits_TS


def _repeated(x_TL: Array, S: int) -> Array:
  """Returns the same columns over and over, S in all: the same registers."""
  return jnp.concatenate([x_TL] * -(-S // _LANES), axis=1)[:, :S]


def bias_shift_1S(size: int, slope: Array | None) -> Array | float:
  """Returns by how much the bias in `mask_logits` is too large for a query."""
  if slope is None:
    return 0.0
  query_1S = lax.broadcasted_iota(jnp.int32, (1, size), 1)
  return slope * query_1S.astype(jnp.float32)


def cap(logits: Array, soft_cap: float | None) -> Array:
  """Returns logits within (-soft_cap, soft_cap), or as they are."""
  if soft_cap is None:
    return logits
  return soft_cap * jnp.tanh(logits / soft_cap)


def column_TL(row_1T: Array) -> Array:
  """Returns a vector that lies along lanes in each of `_LANES` columns."""
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
