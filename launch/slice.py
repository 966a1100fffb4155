"""The description of the slices to rent: a toml file, like those in slices/."""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import re
import tomllib
from typing import Any

from drope_jax.plan import slices
from launch import chips

CAPACITIES = ("on-demand", "spot", "reserved", "calendar", "flex-start")
_RESERVED = ("reserved", "calendar")
LABEL = "drope-launch"
_VARIABLES = {
  "project": "DROPE_LAUNCH_PROJECT",
  "bucket": "DROPE_LAUNCH_BUCKET",
  "service_account": "DROPE_LAUNCH_SERVICE_ACCOUNT",
}
_NOT_OF = {
  "group": ("image",),
  "queued": ("disk_gb", "image"),
  "jobset": ("network", "subnetwork", "internal_ips", "disk_gb"),
}
"""Fields that a way of renting has no place for."""
_NAME = r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?"
_ZONE = r"[a-z]+-[a-z]+\d+-([a-z]|ai\d+[a-z])"


@dataclasses.dataclass(frozen=True)
class Slice:
  """One slice or several equal ones, how to rent them, and where files are.

  Attributes:
    name: of every resource that is created; by default the file's name.
    slice: the name of one slice, as `drope plan --topology` takes it.
    way: how to rent it: "group" (a Compute Engine managed instance group for
      each slice), "queued" (a queued resource of the Cloud TPU API) or "jobset"
      (a JobSet on GKE).
    capacity: one of `CAPACITIES`; "calendar" is a reservation that was made
      in calendar mode, for at most 90 days.
    zone: where the chips are.
    project: of Google Cloud; by default DROPE_LAUNCH_PROJECT.
    bucket: gs://BUCKET/PREFIX for the bundle, logs and records, in the zone's
      region; by default DROPE_LAUNCH_BUCKET.
    service_account: of the virtual machines; with "jobset", the Kubernetes
      service account of the pods. By default DROPE_LAUNCH_SERVICE_ACCOUNT, or
      else drope-tpu of the project.
    slices: how many.
    reservation: its name, for "reserved" and "calendar".
    max_run_hours: after which flex-start capacity is taken back, at most 168.
    network, subnetwork: None: the project's default.
    internal_ips: whether machines have no external address; the network then
      needs Cloud NAT.
    disk_gb: of the boot disk of a managed instance, in GB.
    cluster, location: of GKE, for a JobSet.
    image: the container image of a JobSet's pods, with Python 3.8 or newer.
  """

  name: str
  slice: str
  way: str
  capacity: str
  zone: str
  project: str
  bucket: str
  service_account: str
  slices: int = 1
  reservation: str | None = None
  max_run_hours: int | None = None
  network: str | None = None
  subnetwork: str | None = None
  internal_ips: bool = False
  disk_gb: int = 200
  cluster: str | None = None
  location: str | None = None
  image: str = "python:3.12"

  def __post_init__(self):
    self._check_types()
    self._check_names()
    shape = self.shape
    if self.way not in shape.chip.ways:
      raise ValueError(
        f"way of {self.slice} must be {' or '.join(shape.chip.ways)}, got "
        f"{self.way!r}. Google Cloud rents it by no other."
      )
    if self.capacity not in CAPACITIES:
      raise ValueError(
        f"capacity must be {', '.join(CAPACITIES)}, got {self.capacity!r}. "
        "Choose one."
      )
    if (self.capacity in _RESERVED) != (self.reservation is not None):
      raise ValueError(
        f"Capacity {' or '.join(_RESERVED)} needs a reservation, and no other "
        f"takes one, got capacity {self.capacity!r} and reservation "
        f"{self.reservation!r}. Correct one of them."
      )
    flexible = self.capacity == "flex-start"
    if flexible != (self.max_run_hours is not None):
      raise ValueError(
        "Flex-start capacity needs max_run_hours, and no other takes it, got "
        f"capacity {self.capacity!r} and max_run_hours {self.max_run_hours}. "
        "Correct one of them."
      )
    if flexible and not 1 <= self.max_run_hours <= 168:
      raise ValueError(
        "max_run_hours must be 1 to 168, a week, got "
        f"{self.max_run_hours}. Choose fewer; `watch` creates it anew."
      )
    if (self.way == "jobset") != (None not in (self.cluster, self.location)):
      raise ValueError(
        "A JobSet needs a cluster and its location, and no other way has them, "
        f"got way {self.way!r}, cluster {self.cluster!r} and location "
        f"{self.location!r}. Set all."
      )
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name in _NOT_OF[self.way] and value != field.default:
        raise ValueError(
          f"The way {self.way!r} has no place for {field.name}, got "
          f"{value!r}. Remove it."
        )

  def _check_types(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      kind: Any = field.type
      wanted = getattr(kind, "__name__", kind)
      if not isinstance(value, kind) or (
        isinstance(value, bool) and kind is not bool
      ):
        raise ValueError(
          f"{field.name} must be {wanted}, got {value!r}. Correct it."
        )

  def _check_names(self) -> None:
    if not re.fullmatch(_NAME, self.name):
      raise ValueError(
        "name must be at most 40 small letters, digits and hyphens, beginning "
        f"with a letter, got {self.name!r}. Choose another."
      )
    if not re.fullmatch(_ZONE, self.zone):
      raise ValueError(
        "zone must be like us-west4-a or us-central1-ai1a, got "
        f"{self.zone!r}. Correct it."
      )
    project = r"PROJECT|([a-z][\w.-]*:)?[a-z][a-z0-9-]*"
    if not re.fullmatch(project, self.project):
      raise ValueError(
        f"project must be an id of Google Cloud's, got {self.project!r}. "
        "Correct it."
      )
    if not re.fullmatch(r"gs://[\w.-]+(/[\w.-]+)*", self.bucket):
      raise ValueError(
        "bucket must be gs://BUCKET or gs://BUCKET/PREFIX of letters, digits, "
        "underscores, dots and hyphens, without a slash at its end, got "
        f"{self.bucket!r}. Correct it."
      )
    if self.slices < 1:
      raise ValueError(
        f"slices must be 1 or more, got {self.slices}. Raise it."
      )
    if self.disk_gb < 50:
      raise ValueError(
        "disk_gb must be 50 or more for the libraries and logs, got "
        f"{self.disk_gb}. Raise it."
      )

  @property
  def shape(self) -> chips.Shape:
    """One slice's."""
    return chips.parse(self.slice)

  @property
  def hosts(self) -> int:
    """Of all slices."""
    return self.slices * self.shape.hosts

  @property
  def chips(self) -> int:
    """Of all slices."""
    return self.slices * self.shape.chips

  @property
  def topology(self) -> str | None:
    """For `drope train --topology`; None: that does not know the chip."""
    if self.shape.kind not in slices.CHIPS:
      return None
    return self.slice if self.slices == 1 else f"{self.slices}x{self.slice}"

  @property
  def region(self) -> str:
    """Of the zone."""
    return self.zone.rpartition("-")[0]

  @property
  def folder(self) -> str:
    """Where the bucket holds the run's records."""
    return f"{self.bucket}/launch/{self.name}"

  @property
  def cluster_context(self) -> str:
    """What `gcloud container clusters get-credentials` names the cluster."""
    return f"gke_{self.project}_{self.location}_{self.cluster}"

  @property
  def slice_names(self) -> list[str]:
    """The name of each slice, with a number if there are several."""
    if self.slices == 1:
      return [self.name]
    return [f"{self.name}-{i}" for i in range(self.slices)]


def read(
  path: str | os.PathLike,
  variables: Mapping[str, str],
  placeholders: bool = False,
) -> Slice:
  """Returns the description in a file.

  Args:
    path: of the toml file.
    variables: of the environment.
    placeholders: whether a missing project or bucket is replaced by a
      placeholder.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is no valid description; the message names file and field.
  """
  path = pathlib.Path(path)
  try:
    found = tomllib.loads(path.read_text("utf-8"))
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} must be toml ({error}). Correct it.") from error
  known = {field.name: field for field in dataclasses.fields(Slice)}
  if unknown := sorted(found.keys() - known.keys()):
    raise ValueError(
      f"{path} has no field {', '.join(unknown)}. Known are "
      f"{', '.join(known)}. Remove it."
    )
  values: dict[str, Any] = {"name": path.stem} | _from_environment(
    variables, placeholders
  )
  values |= found
  if "service_account" not in values and "project" in values:
    values["service_account"] = (
      "drope-tpu"
      if values.get("way") == "jobset"
      else f"drope-tpu@{values['project']}.iam.gserviceaccount.com"
    )
  missing = [
    name
    for name, field in known.items()
    if field.default is dataclasses.MISSING and name not in values
  ]
  if missing:
    named = [
      f"{name} (or {_VARIABLES[name]})" if name in _VARIABLES else name
      for name in missing
    ]
    raise ValueError(f"{path} needs {', '.join(named)}, got none. Set it.")
  try:
    return Slice(**values)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _from_environment(variables, placeholders) -> dict[str, str]:
  values = {"project": "PROJECT", "bucket": "gs://BUCKET/drope"}
  if not placeholders:
    values = {}
  for field, name in _VARIABLES.items():
    if value := variables.get(name):
      values[field] = value
  return values
