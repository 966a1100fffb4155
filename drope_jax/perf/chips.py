"""What a TPU's cores and memory do in a cycle, from the maker's data sheets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Core:
  """One TensorCore, and the memory of its chip.

  Attributes:
    macs: bfloat16 multiply-adds of its matrix units in a cycle.
    clock_hz: cycles a second: the peak FLOP/s over those of one cycle.
    count: cores of a chip.
    chip_hbm_bytes: HBM bytes a second of the whole chip.
  """

  macs: int
  clock_hz: float
  count: int
  chip_hbm_bytes: float

  @property
  def hbm_bytes(self) -> float:
    """HBM bytes of the whole chip in a cycle."""
    return self.chip_hbm_bytes / self.clock_hz


CORES = {
  "v5e": Core(4 * 128**2, 1.5e9, 1, 819e9),
  "v5p": Core(4 * 128**2, 1.75e9, 2, 2765e9),
  "v6e": Core(2 * 2 * 256**2, 1.75e9, 1, 1638e9),
}
"""By chip."""
