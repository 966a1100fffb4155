"""The software pipeline of a kernel: scores, weights and sums, unit by unit.

Scores are transposed: keys along sublanes, queries along lanes. A query's
maximum, sum and scale are then one value a lane, which broadcasts for free, and
the products with values and keys need no transposed scores.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax.experimental import pallas as pl

from drope_jax.attention.flash_tpu import tiles
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.axes import Array


class Part(NamedTuple):
  """A part of a tile, or all of it.

  Attributes:
    kind: of `tiles`; static.
    q, k: where it begins in the tile; may be traced.
    shape: (queries, keys).
  """

  kind: int
  q: Array | int
  k: Array | int
  shape: tuple[int, int]


class Unit(NamedTuple):
  """What passes through the pipeline at once: some queries and some keys.

  Attributes:
    part: it belongs to this part.
    q, k: where it begins in the part.
  """

  part: Part
  q: int
  k: int

  def queries(self, blocks: Blocks) -> Any:
    """Returns the slice of its queries in the tile."""
    return _slice(self.part.q, self.q, blocks.unit_q)

  def keys(self, blocks: Blocks) -> Any:
    """Returns the slice of its keys in the tile."""
    return _slice(self.part.k, self.k, blocks.unit_k)


def _slice(part, unit, size):
  start = part + unit
  return pl.ds(
    start if isinstance(start, int) else pl.multiple_of(start, size), size
  )


def units(part: Part, blocks: Blocks) -> list[Unit]:
  """Returns the units of a part, without those above the diagonal."""
  found = [
    Unit(part, q, k)
    for q in range(0, part.shape[0], blocks.unit_q)
    for k in range(0, part.shape[1], blocks.unit_k)
  ]
  if part.kind not in tiles.ON_DIAGONAL:
    return found
  return [unit for unit in found if unit.k < unit.q + blocks.unit_q]


def run(
  units: list[Unit],
  blocks: Blocks,
  begin: Callable[[Unit], Any],
  weigh: Callable[[Unit, Any], Any],
  end: Callable[[Unit, Any], None],
) -> None:
  """Runs three stages on every unit, overlapped across units.

  The compiler keeps the order of the matrix unit's work. While the matrix unit
  computes the scores of one unit, the vector unit computes another's weights.
  """
  scores: dict[int, Any] = {}
  weights: dict[int, Any] = {}
  for n in range(-blocks.ahead, len(units) + blocks.behind):
    if (coming := n + blocks.ahead) < len(units):
      scores[coming] = begin(units[coming])
    if (going := n - blocks.behind) in weights:
      end(units[going], weights.pop(going))
    if n in scores:
      weights[n] = weigh(units[n], scores.pop(n))
  for n in list(weights):
    end(units[n], weights.pop(n))
