"""Google Cloud's names for each kind of TPU, and the ways to rent it."""

import dataclasses
import math
import re

from drope_jax.plan import slices


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of chip.

  Attributes:
    ways: to rent it: names in `launch.ways.WAYS`.
    named: cores or chips that a slice's name counts for one chip.
    grids: the topology of a slice, by its number of chips.
    accelerator_type: the first part of a slice's name in the Cloud TPU API.
    runtime_version: of its virtual machines there.
    machine_type: of Compute Engine and GKE, without the number of chips.
    image_family: of Compute Engine's `ubuntu-os-accelerator-images`.
    gke_accelerator: the label of its nodes on GKE.
    disk: a type of boot disk that its Compute Engine machines accept.
    most_on_a_host: chips in the largest slice of one host; the hosts of larger
      slices have 4 each.
  """

  ways: tuple[str, ...]
  named: int
  grids: dict[int, str]
  accelerator_type: str
  runtime_version: str | None
  machine_type: str
  image_family: str | None
  gke_accelerator: str
  disk: str = "hyperdisk-balanced"
  most_on_a_host: int = 4


_EVERY_WAY = ("group", "queued", "jobset")
_IMAGES = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"

# Ways: docs.cloud.google.com/tpu/docs/tpus-and-migs (groups: v5p and later) and
# /tpu/docs/tpus-in-compute-engine (the Cloud TPU API: not TPU7x and later).
# Runtime versions: /tpu/docs/runtimes. Machine types and labels:
# docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus.
CHIPS = {
  "v4": Chip(
    ways=("queued", "jobset"),
    named=slices.CHIPS["v4"].named,
    grids=slices.CHIPS["v4"].grids,
    accelerator_type="v4",
    runtime_version="tpu-ubuntu2204-base",
    machine_type="ct4p-hightpu",
    image_family=None,
    gke_accelerator="tpu-v4-podslice",
  ),
  "v5e": Chip(
    ways=("queued", "jobset"),
    named=slices.CHIPS["v5e"].named,
    grids=slices.CHIPS["v5e"].grids,
    accelerator_type="v5litepod",
    runtime_version="v2-alpha-tpuv5-lite",
    machine_type="ct5lp-hightpu",
    image_family=None,
    gke_accelerator="tpu-v5-lite-podslice",
    most_on_a_host=8,
  ),
  "v5p": Chip(
    ways=_EVERY_WAY,
    named=slices.CHIPS["v5p"].named,
    grids=slices.CHIPS["v5p"].grids,
    accelerator_type="v5p",
    runtime_version="v2-alpha-tpuv5",
    machine_type="ct5p-hightpu",
    image_family=_IMAGES,
    gke_accelerator="tpu-v5p-slice",
    disk="pd-balanced",
  ),
  "v6e": Chip(
    ways=_EVERY_WAY,
    named=slices.CHIPS["v6e"].named,
    grids=slices.CHIPS["v6e"].grids,
    accelerator_type="v6e",
    runtime_version="v2-alpha-tpuv6e",
    machine_type="ct6e-standard",
    image_family=_IMAGES,
    gke_accelerator="tpu-v6e-slice",
    most_on_a_host=8,
  ),
  # Its name counts cores, two a chip: docs.cloud.google.com/tpu/docs/tpu7x.
  "tpu7x": Chip(
    ways=("group", "jobset"),
    named=2,
    grids=slices.CHIPS["v5p"].grids,
    accelerator_type="tpu7x",
    runtime_version=None,
    machine_type="tpu7x-standard",
    image_family="ubuntu-accel-2404-amd64-tpu-tpu7x",
    gke_accelerator="tpu7x",
  ),
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """One slice's chips and hosts.

  Attributes:
    name: such as v5e-16.
    kind: a key of `CHIPS`.
    chips: of the slice.
  """

  name: str
  kind: str
  chips: int

  @property
  def chip(self) -> Chip:
    """Its kind's."""
    return CHIPS[self.kind]

  @property
  def topology(self) -> str:
    """Such as 4x4."""
    return self.chip.grids[self.chips]

  @property
  def chips_on_a_host(self) -> int:
    """All of a slice of one host; else four."""
    one_host = self.chips <= self.chip.most_on_a_host
    return self.chips if one_host else 4

  @property
  def hosts(self) -> int:
    """Virtual machines, or nodes."""
    return math.ceil(self.chips / self.chips_on_a_host)

  @property
  def machine_type(self) -> str:
    """Of Compute Engine."""
    return f"{self.chip.machine_type}-{self.chips_on_a_host}t"

  @property
  def accelerator_type(self) -> str:
    """In the Cloud TPU API."""
    return f"{self.chip.accelerator_type}-{self.chips * self.chip.named}"


def parse(name: str) -> Shape:
  """Returns the shape of a slice such as v5e-16 or tpu7x-64.

  Raises:
    ValueError: there is no slice of that name.
  """
  found = re.fullmatch(r"(\w+)-(\d+)", name)
  if found and (chip := CHIPS.get(found[1])):
    chips, rest = divmod(int(found[2]), chip.named)
    if chips in chip.grids and not rest:
      return Shape(name, found[1], chips)
  known = slices.names(CHIPS)
  raise ValueError(f"slice must be one of {known}, got {name!r}. Name one.")
