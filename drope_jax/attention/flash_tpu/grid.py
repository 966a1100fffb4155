"""What both kernels share: their inputs, prefetched scalars and grid steps."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from drope_jax.attention.flash_tpu import logits, tiles
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.attention.flash_tpu.pipeline import Part
from drope_jax.attention.flash_tpu.tiles import Code, Visits
from drope_jax.attention.mask import Mask
from drope_jax.attention.rotation import Rotation
from drope_jax.axes import Array

_LANES = 128
_ROW_BYTES = 256
"""Of VMEM for a token's values of arrays without D: lse, segments and more."""
_UNITS = 16
"""Float32 units for which a kernel has room beside its blocks: those in its
pipeline, and what the compiler spills."""


class Inputs(NamedTuple):
  """A kernel's operands, padded to whole blocks.

  Attributes:
    q_BHSD: queries, times the scale of their logits in base 2.
    k_BKTD, v_BKTD: keys and values.
    mask: its window has shape [1].
    slopes_H: ALiBi's, in base 2; or None.
    rotation: of queries and keys, with an index of shape [1]; or None.
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
    """Returns segments of queries (B1S) and keys (B1T), or nothing."""
    if self.mask.q_segment_BS is None:
      return []
    assert self.mask.k_segment_BT is not None  # Both come together.
    return [self.mask.q_segment_BS[:, None], self.mask.k_segment_BT[:, None]]

  def tables(self) -> list[Array]:
    """Returns the rotation tables of queries and of keys, or nothing."""
    return [] if self.rotation is None else list(self.rotation[:2])

  def rotated(self, blocks: Blocks) -> list[Any]:
    """Returns scratch for rotated blocks of queries and keys, or nothing."""
    if self.rotation is None:
      return []
    D = self.q_BHSD.shape[3]
    return [
      pltpu.VMEM((blocks.q, D), self.q_BHSD.dtype),
      pltpu.VMEM((blocks.k, D), self.k_BKTD.dtype),
    ]

  def room(
    self,
    blocks: Blocks,
    *,
    q: tuple[float, int],
    k: tuple[float, int],
  ) -> int:
    """Returns the VMEM bytes that a kernel's tile leaves free.

    Args:
      blocks: of the tiles.
      q: how many arrays of its queries the kernel reads and writes, of which
        there are two blocks each, and how many float32 sums it holds.
      k: the same of its keys.
    """
    dtype = self.q_BHSD.dtype
    size = dtype.itemsize * self.channels
    rotates = self.rotation is not None
    # Two blocks of cosines and sines, and what is rotated.
    rotation = rotates * (2 * 2 * 4 * self.channels + size)
    tile = sum(
      tokens
      * (2 * arrays * size + sums * 4 * self.channels + rotation + _ROW_BYTES)
      for tokens, (arrays, sums) in ((blocks.q, q), (blocks.k, k))
    )
    units = _UNITS * 4 * blocks.unit_q * blocks.unit_k
    return blocks.vmem_bytes - int(tile) - units

  @property
  def channels(self) -> int:
    """Channels of a head's row in VMEM: whole lanes."""
    return -(-self.q_BHSD.shape[3] // _LANES) * _LANES

  def code(self, blocks: Blocks) -> Code:
    """Returns the kinds of tiles and parts that a kernel needs code for."""
    return tiles.code(self.mask, blocks.tile, blocks.parts, blocks.undivided)


def scalars(
  inputs: Inputs, visits: Visits, blocks: Blocks, code: Code
) -> dict[str, Array]:
  """Returns the arrays that a kernel prefetches into scalar memory, by name.

  All are int32 but ALiBi's slopes. All are vectors, those of a row of the batch
  after those of the row before: as a matrix, each row would take 512 bytes, of
  which scalar memory has 1 MiB.

  Args:
    inputs: the kernel's.
    visits: one for each step of the grid's last axis.
    blocks: of the tiles.
    code: the kinds that the kernel has code for.
  """
  mask = inputs.mask
  kinds_Bn = tiles.kinds_Bn(visits.q, visits.k, blocks.tile, mask)

  def of_rows(x_Bn: Array) -> Array:
    # With causality alone, all rows of the batch are alike.
    rows = inputs.q_BHSD.shape[0]
    return jnp.broadcast_to(x_Bn, (rows, x_Bn.shape[1])).ravel()

  arrays = visits._asdict() | {
    "kind": of_rows(code.of_tiles(kinds_Bn)),
    "latest": of_rows(tiles.latest_Bn(kinds_Bn)),
    "offset": mask.offset_B,
    "window": mask.window,
    "slope": inputs.slopes_H,
    "scheme": None if inputs.rotation is None else inputs.rotation.index,
  }
  if code.part:
    parts = tiles.parts(visits, blocks.tile, blocks.parts)
    kinds_Bn = tiles.kinds_Bn(*parts, blocks.parts, mask)
    arrays["part_kind"] = of_rows(code.of_parts(kinds_Bn))
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
    code: the kinds that the kernel has code for.
    row, visit: on the grid.
    head: the query head.
  """

  scalars: dict[str, Any]
  blocks: Blocks
  code: Code
  row: Array
  visit: Array
  head: Array

  def has(self, flag: int) -> Array:
    """Returns whether the visit has one of `tiles`' flags."""
    return (self.scalars["flags"][self.visit] & flag) != 0

  @property
  def visible(self) -> Array:
    """Whether some key of the tile is visible."""
    return self.scalars["kind"][self._place] != tiles.HIDDEN

  @property
  def _place(self) -> Array:
    """Where values of the visit are among those of all rows."""
    return self.row * self.scalars["q"].shape[0] + self.visit

  def for_each_part(self, run: Callable[[Part], None]) -> None:
    """Runs the code for the tile, or for each of its parts that is visible."""
    kind = self.scalars["kind"][self._place]
    for known in self.code.tile:
      part = Part(known, 0, 0, self.blocks.tile)
      pl.when(kind == known)(functools.partial(run, part))
    if self.code.part:
      pl.when(kind == tiles.DIVIDED)(functools.partial(self._loop, run))

  def _loop(self, run: Callable[[Part], None]) -> None:
    shape, tile = self.blocks.parts, self.blocks.tile
    columns = tile[1] // shape[1]
    count = tile[0] // shape[0] * columns

    def body(n, _):
      kind = self.scalars["part_kind"][self._place * count + n]
      q = pl.multiple_of(lax.div(n, columns) * shape[0], shape[0])
      k = pl.multiple_of(lax.rem(n, columns) * shape[1], shape[1])
      for known in self.code.part:
        part = Part(known, q, k, shape)
        pl.when(kind == known)(functools.partial(run, part))

    lax.fori_loop(0, count, body, None)

  def position(self, part: Part, segments: Sequence[Any]) -> logits.Position:
    """Returns the position of a part, for `logits.mask_logits`."""
    first = (
      self.scalars["q"][self.visit] * self.blocks.q
      - self.scalars["k"][self.visit] * self.blocks.k
      - part.k
    )
    if "offset" in self.scalars:
      first += self.scalars["offset"][self.row]
    window, q_1S, k_TL = None, None, None
    if part.kind not in (tiles.WHOLE, tiles.DIAGONAL):
      if "window" in self.scalars:
        window = self.scalars["window"][0]
      if segments:
        q_1S = segments[0][:, pl.ds(part.q, part.shape[0])]
        # Once for all units of the same keys, when the first of them needs it.
        k_TL = functools.cache(
          lambda unit_k: logits.column_TL(
            segments[1][:, pl.ds(part.k + unit_k, self.blocks.unit_k)]
          )
        )
    return logits.Position(
      first + part.q, first, window, q_1S, k_TL, self.slope
    )

  @property
  def slope(self) -> Array | None:
    """ALiBi's, of the query head."""
    slopes = self.scalars.get("slope")
    return None if slopes is None else slopes[self.head]
