"""How a kernel divides its work, and the table of the best divisions."""

import dataclasses
import math
import types
from typing import Literal

from absl import logging

from drope_jax.attention.flash_tpu import block_table

_LANES = 128

_VMEM_BYTES = types.MappingProxyType({"v4": 14 * 2**20})
"""Of chips with less than the default of `Blocks`: a v4 core has 16 MiB."""


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How a kernel divides its work.

  Attributes:
    q, k: queries and keys of a tile: what one step of the grid loads.
    unit_q, unit_k: queries and keys of a unit: what passes through the software
      pipeline at once. They divide the tile's.
    ahead: how many units' scores are computed before the first is used.
    behind: how many units' weights wait before they meet the values.
    mxu_total: whether the forward pass sums the weights on the matrix unit, by
      a product with ones, instead of on the vector unit.
    part: side of the square parts of a tile over which a kernel loops, so that
      there is code for a part only. A tile that whole parts do not make up, or
      a part that whole units do not, is not divided.
    undivided: whether the tiles that a window, segments or an offset do not cut
      are not divided either, and have code of their own. They then take fewer
      cycles, but the kernel takes longer to compile.
    vmem_bytes: of a core's VMEM, that a kernel may take. Tiles that do not fit
      in it are smaller.
  """

  q: int
  k: int
  unit_q: int
  unit_k: int
  ahead: int
  behind: int
  mxu_total: bool = False
  part: int = 1024
  undivided: bool = False
  vmem_bytes: int = 56 * 2**20  # A v5p core has 64 MiB; v5e and v6e have 128.

  def __post_init__(self):
    sizes = (self.q, self.k, self.unit_q, self.unit_k, self.part)
    if min(sizes) < 1 or min(self.ahead, self.behind) < 0:
      raise ValueError(
        "Blocks need sizes of at least 1, and at least 0 units ahead and behind"
        f", got {self}. Raise the lowest."
      )
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

  def halved(self) -> "Blocks":
    """Returns blocks whose tiles have half as many units along each side.

    Tiles of one unit stay as they are.
    """
    q, k = self.q // self.unit_q, self.k // self.unit_k
    return dataclasses.replace(
      self, q=-(-q // 2) * self.unit_q, k=-(-k // 2) * self.unit_k
    )

  @property
  def tile(self) -> tuple[int, int]:
    """Queries and keys of a tile."""
    return self.q, self.k

  @property
  def parts(self) -> tuple[int, int]:
    """Queries and keys of a part; those of the tile if it is not divided."""
    sizes = (self.q, self.k, self.unit_q, self.unit_k)
    q, k, unit_q, unit_k = (math.gcd(size, self.part) for size in sizes)
    if (q, k, unit_q, unit_k) != (self.part, self.part, *sizes[2:]):
      return self.tile
    return self.part, self.part


def nearest(
  chip: str | None, head_dim: int, direction: Literal["forward", "backward"]
) -> Blocks:
  """Returns the table's blocks for a chip and a head size.

  For a chip or a size that the table lacks, it returns those of v5e or of the
  nearest size (the larger of two), and logs that once.
  """
  rows = [row for row in block_table.ROWS if row[2] == direction]
  known = chip if any(row[0] == chip for row in rows) else "v5e"
  rows = [row for row in rows if row[0] == known]
  found = min(rows, key=lambda row: (abs(row[1] - head_dim), -row[1]))
  if found[:2] != (chip, head_dim):
    logging.log_first_n(
      logging.INFO,
      "flash_tpu has no blocks for heads of %d on %s. It uses those of %d on "
      "%s. tools/tune_attention.py finds better ones.",
      1,
      head_dim,
      chip,
      found[1],
      known,
    )
  blocks = of_row(found)
  return dataclasses.replace(
    blocks, vmem_bytes=_VMEM_BYTES.get(chip or "", blocks.vmem_bytes)
  )


def of_row(row: tuple) -> Blocks:
  """Returns the blocks of a row of the table."""
  *sizes, _, _ = row[3:]
  return Blocks(sizes[0], *sizes)
