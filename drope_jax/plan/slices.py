"""TPU slices by their names in Google Cloud."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of chip; the compiler treats each chip as one device.

  Attributes:
    named: cores or chips that a slice's name counts for one chip.
    hbm_bytes: what a program may use.
    grids: the compiler's topology name by the number of chips.
    cores: the compiler's name for how a chip's cores are joined; None for its
      default.
  """

  named: int
  hbm_bytes: int
  grids: dict[int, str]
  cores: str | None = None


_FLAT = {
  1: "1x1",
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
# libtpu 0.0.51 reports when a program is too large. Google Cloud joins the two
# cores of a v4; the compiler's default does not.
CHIPS = {
  "v4": Chip(2, int(30.75 * _GIB), _CUBIC, "megacore"),
  "v5e": Chip(1, int(15.75 * _GIB), _FLAT),
  "v5p": Chip(2, int(95.73 * _GIB), _CUBIC),
  "v6e": Chip(1, int(31.24 * _GIB), _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """One slice, or several equal ones joined by the data center's network.

  Attributes:
    name: Google Cloud's: v5e and v6e count chips; v4 and v5p count cores, two
      a chip.
    chip: a key of `CHIPS`.
    slices: how many.
    chips: of all slices together.
  """

  name: str
  chip: str
  slices: int
  chips: int

  @property
  def topology(self) -> dict[str, Any]:
    """What `jax.experimental.topologies.get_topology_desc` takes."""
    chip = CHIPS[self.chip]
    grid = chip.grids[self.chips // self.slices]
    arguments: dict[str, Any] = {
      "platform": "tpu",
      "topology_name": f"{self.chip}:{grid}",
    }
    if chip.cores is not None:
      arguments["chip_config_name"] = chip.cores
    if self.slices > 1:
      arguments["num_slices"] = self.slices
    return arguments


def parse(name: str) -> Slice:
  """Returns the slice of a name such as "v5e-256", or "2xv5e-256" for two.

  Raises:
    ValueError: there is none of that name.
  """
  found = re.fullmatch(r"(?:([1-9]\d*)x)?(v\d+\w?)-(\d+)", name)
  if found and found[2] in CHIPS:
    chip = CHIPS[found[2]]
    chips, rest = divmod(int(found[3]), chip.named)
    if chips in chip.grids and not rest:
      slices = int(found[1] or 1)
      return Slice(name, found[2], slices, slices * chips)
  raise ValueError(
    f"A topology must be one of {names(CHIPS)}, or several as 2xv5e-256, got "
    f"{name!r}. Name one of these."
  )


def names(chips: Mapping[str, Any]) -> str:
  """Returns the names of all single slices, for a message.

  Args:
    chips: by kind, each with `named` and `grids` as of `Chip`.
  """
  return "; ".join(
    f"{kind}-{{{','.join(str(n * chip.named) for n in chip.grids)}}}"
    for kind, chip in chips.items()
  )
