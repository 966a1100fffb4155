"""TPU slices by the names under which Google Cloud rents them."""

import dataclasses
import re

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What the compiler sees of a kind of chip as devices.

  Attributes:
    devices: of a chip.
    named: how many of what a slice's name counts a chip has.
    hbm_bytes: of a device, what the compiler gives to a program.
    grids: the compiler's name for a slice, by its number of chips.
  """

  devices: int
  named: int
  hbm_bytes: int
  grids: dict[int, str]


_FLAT = {
  4: "2x2",
  8: "2x4",
  16: "4x4",
  32: "4x8",
  64: "8x8",
  128: "8x16",
  256: "16x16",
}
_CUBIC = {
  4: "2x2x1",
  8: "2x2x2",
  16: "2x2x4",
  32: "2x4x4",
  64: "4x4x4",
  128: "4x4x8",
  256: "4x8x8",
  512: "8x8x8",
}

# Sizes of slices: cloud.google.com/tpu/docs/v5e, v5p, v6e, v4. HBM: what
# libtpu 0.0.51 says when a program is too large.
CHIPS = {
  "v4": Chip(2, 2, int(15.25 * _GIB), _CUBIC),
  "v5e": Chip(1, 1, int(15.75 * _GIB), _FLAT),
  "v5p": Chip(1, 2, int(95.73 * _GIB), _CUBIC),
  "v6e": Chip(1, 1, int(31.24 * _GIB), _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice.

  Attributes:
    name: as it is rented: v5e and v6e count chips, v4 and v5p their cores, of
      which a chip has two.
    chip: a key of `CHIPS`.
    chips: how many.
  """

  name: str
  chip: str
  chips: int

  @property
  def devices(self) -> int:
    """Devices of all its chips."""
    return self.chips * CHIPS[self.chip].devices

  @property
  def topology(self) -> str:
    """The compiler's name for it."""
    return f"{self.chip}:{CHIPS[self.chip].grids[self.chips]}"


def parse(name: str) -> Slice:
  """Returns the slice of a name such as "v5e-256".

  Raises:
    ValueError: there is none of that name.
  """
  found = re.fullmatch(r"(v\d+\w?)-(\d+)", name)
  if found and found[1] in CHIPS:
    chip = CHIPS[found[1]]
    chips, rest = divmod(int(found[2]), chip.named)
    if chips in chip.grids and not rest:
      return Slice(name, found[1], chips)
  known = "; ".join(
    f"{kind}-{{{','.join(str(n * chip.named) for n in chip.grids)}}}"
    for kind, chip in CHIPS.items()
  )
  raise ValueError(
    f"A topology must be one of {known}, got {name!r}. Name one of these."
  )
