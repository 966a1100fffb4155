"""What both kernels are given: padded arrays, and scalars that steer visits."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from drope_jax.attention.flash_tpu import tiles, units
from drope_jax.attention.flash_tpu.tiles import Visits
from drope_jax.attention.flash_tpu.units import Blocks
from drope_jax.attention.mask import Mask
from drope_jax.attention.rotation import Rotation
from drope_jax.axes import Array

VMEM_LIMIT_BYTES = 56 * 2**20
"""Of a v5p core's 64 MiB; v5e and v6e have 128."""


class Inputs(NamedTuple):
  """A kernel's operands; it is given them padded to whole blocks.

  Attributes:
    q_BHSD: queries, times all that multiplies a logit, in base 2.
    k_BKTD, v_BKTD: keys and values.
    mask: its window has shape [1].
    slopes_H: ALiBi's, in base 2; or None.
    rotation: of queries and keys; its index has shape [1]. Or None.
  """

  q_BHSD: Array
  k_BKTD: Array
  v_BKTD: Array
  mask: Mask
  slopes_H: Array | None
  rotation: Rotation | None

  @property
  def group_size(self) -> int:
    """How many query heads share a key/value head."""
    return self.q_BHSD.shape[1] // self.k_BKTD.shape[1]

  def segments(self) -> list[Array]:
    """Returns those of queries and keys as B1S and B1T, or nothing."""
    if self.mask.q_segment_BS is None:
      return []
    return [self.mask.q_segment_BS[:, None], self.mask.k_segment_BT[:, None]]

  def turns(self) -> list[Array]:
    """Returns the rotation's tables of queries and of keys, or nothing."""
    return [] if self.rotation is None else list(self.rotation[:2])

  def turned(self, blocks: Blocks) -> list[Any]:
    """Returns memory for a rotated block of queries and of keys, or nothing."""
    if self.rotation is None:
      return []
    D = self.q_BHSD.shape[3]
    return [
      pltpu.VMEM((blocks.q, D), self.q_BHSD.dtype),
      pltpu.VMEM((blocks.k, D), self.k_BKTD.dtype),
    ]


def scalars(inputs: Inputs, visits: Visits, blocks: Blocks) -> dict[str, Array]:
  """Returns arrays by name, which a kernel's scalar memory holds.

  All are int32 but ALiBi's slopes.

  Args:
    inputs: the kernel's.
    visits: one a step of the grid's last axis.
    blocks: of the tiles.
  """
  mask = inputs.mask
  kinds_Bn = tiles.kinds_Bn(visits, blocks.tile, mask)
  # Where only causality hides, every row of the batch is alike.
  rows = inputs.q_BHSD.shape[0]
  kinds_Bn = jnp.broadcast_to(kinds_Bn, (rows, kinds_Bn.shape[1]))
  arrays = visits._asdict() | {
    "kind": kinds_Bn,
    "latest": tiles.latest_Bn(kinds_Bn),
    "offset": mask.offset_B,
    "window": mask.window,
    "slope": inputs.slopes_H,
    "turn": None if inputs.rotation is None else inputs.rotation.index,
  }
  return {
    name: jnp.asarray(array)
    for name, array in arrays.items()
    if array is not None
  }


@dataclasses.dataclass(frozen=True)
class Step:
  """One step of a grid, within a kernel.

  Attributes:
    scalars: what `scalars` returned, as references.
    blocks: of the tiles.
    kinds: that tiles may be of.
    row, visit: on the grid.
    head: the query head.
  """

  scalars: dict[str, Any]
  blocks: Blocks
  kinds: tuple[int, ...]
  row: Array
  visit: Array
  head: Array

  def has(self, flag: int) -> Array:
    """Returns whether the visit has one of `tiles`' flags."""
    return (self.scalars["flags"][self.visit] & flag) != 0

  def of_each_kind(self, run: Callable[[int], None]) -> None:
    """Runs the code for the tile's kind; none where it is hidden."""
    kind = self.scalars["kind"][self.row, self.visit]
    for known in self.kinds:
      pl.when(kind == known)(lambda known=known: run(known))

  def position(self, kind: int, segments: Sequence[Any]) -> units.Position:
    """Returns where the tile lies, for `units.mask_logits`."""
    distance = (
      self.scalars["q"][self.visit] * self.blocks.q
      - self.scalars["k"][self.visit] * self.blocks.k
    )
    if "offset" in self.scalars:
      distance += self.scalars["offset"][self.row]
    window, q_1S, k_TL = None, None, None
    if kind not in (tiles.WHOLE, tiles.DIAGONAL):
      if "window" in self.scalars:
        window = self.scalars["window"][0]
      if segments:
        q_1S = segments[0][...]
        # Once for all units of the same keys, and not before the first of them.
        k_TL = functools.cache(
          lambda unit_k: units.column_TL(
            segments[1][:, pl.ds(unit_k, self.blocks.unit_k)]
          )
        )
    return units.Position(kind, distance, window, q_1S, k_TL, self.slope)

  @property
  def slope(self) -> Array | None:
    """ALiBi's, of the query head."""
    slopes = self.scalars.get("slope")
    return None if slopes is None else slopes[self.head]
