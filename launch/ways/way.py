"""The interface of a way to rent slices."""

import abc
from collections.abc import Collection, Mapping
import dataclasses
import enum
import json
import types
from typing import Any

from launch import commands
from launch.commands import Command, Run
from launch.hosts import bootstrap
from launch.slice import LABEL, Slice


class Standing(enum.StrEnum):
  """The state of the resources, in words that all ways share."""

  ABSENT = "absent"
  WAITING = "waiting for capacity"
  PROVISIONING = "being provisioned"
  ACTIVE = "active"
  PREEMPTED = "preempted"
  STOCKOUT = "out of capacity"
  QUOTA = "beyond the quota"
  BROKEN = "failed"
  DELETING = "being deleted"


REFUSED = types.MappingProxyType(
  {"quota": Standing.QUOTA, "stockout": Standing.STOCKOUT}
)
"""The state of what Google Cloud refused, by the kind of that failure."""


def standing_of(said: str) -> Standing:
  """Returns the state of resources whose failure was described so."""
  return REFUSED.get(commands.kind_of(said), Standing.BROKEN)


@dataclasses.dataclass(frozen=True)
class Seen:
  """What was found out about the resources.

  Attributes:
    standing: their state.
    said: Google Cloud's own word for it, and its reason.
  """

  standing: Standing
  said: str = ""


_WORST_FIRST = (
  Standing.QUOTA,
  Standing.BROKEN,
  Standing.PREEMPTED,
  Standing.STOCKOUT,
  Standing.DELETING,
  Standing.ABSENT,
  Standing.WAITING,
  Standing.PROVISIONING,
  Standing.ACTIVE,
)


def worst(seen: list[Seen]) -> Seen:
  """Returns the state of several slices, which need each other.

  If only some are absent or going, all have to be created anew.
  """
  leaving = (Standing.ABSENT, Standing.DELETING)
  gone = [s for s in seen if s.standing in leaving]
  if gone and len(gone) < len(seen):
    return Seen(Standing.PREEMPTED, "a slice is gone")
  return min(seen, key=lambda s: _WORST_FIRST.index(s.standing))


class Way(abc.ABC):
  """A way to rent `rented`. Its commands cite the pages that describe them.

  Every command can be repeated: one whose work is done already succeeds.
  """

  def __init__(self, rented: Slice):
    self.rented = rented

  @abc.abstractmethod
  def create(self) -> list[Command]:
    """Returns the commands that ask for the slices."""

  @abc.abstractmethod
  def delete(self) -> list[Command]:
    """Returns the commands that remove what `create` made, and nothing else."""

  @abc.abstractmethod
  def observe(self, do: Run) -> Seen:
    """Returns the state of the slices.

    Raises:
      Failed: a command that reads it failed.
    """

  def failed_starts(
    self, begun: Collection[str], do: Run
  ) -> list[Mapping[str, Any]]:
    """Returns the records of hosts that could not write them to the bucket.

    Args:
      begun: names of machines that need not be asked.
      do: runs a command.
    """
    return []

  @abc.abstractmethod
  def ssh(self, index: int, machine: str, words: str | None) -> Command:
    """Returns the command that logs in to a host, or runs `words` there.

    Args:
      index: of the host, counted over all slices.
      machine: its own name.
      words: a command for its shell; None: a login.
    """

  @abc.abstractmethod
  def left(self) -> list[Command]:
    """Returns the commands that list everything under the same label."""

  def manifest(self) -> str | None:
    """Returns the manifest that `create` applies by kubectl; None: none."""
    return None

  def gcloud(self, *words: str, settled_by: tuple[str, ...] = ()) -> Command:
    """Returns a command of gcloud for the project that asks no questions."""
    project = f"--project={self.rented.project}"
    return Command(
      ("gcloud", *words, project, "--quiet"), settled_by=settled_by
    )

  def create_policy(self) -> Command:
    """Returns the command that creates the workload policy of the slices.

    It joins machines to one slice. Source: gcloud reference, compute
    resource-policies create workload-policy.
    """
    rented = self.rented
    return self.gcloud(
      *("compute", "resource-policies", "create", "workload-policy"),
      *(rented.name, f"--region={rented.region}", "--type=HIGH_THROUGHPUT"),
      f"--accelerator-topology={rented.shape.topology}",
      settled_by=("exists",),
    )

  def delete_policy(self) -> Command:
    """Source: gcloud reference, compute resource-policies delete."""
    rented = self.rented
    return self.gcloud(
      *("compute", "resource-policies", "delete", rented.name),
      f"--region={rented.region}",
      settled_by=("missing",),
    )

  def guest_records(
    self, begun: Collection[str], do: Run, *words: str
  ) -> list[Mapping[str, Any]]:
    """Returns records that start-up scripts left in guest attributes.

    Source: gcloud reference, compute instances get-guest-attributes and compute
    tpus tpu-vm get-guest-attributes, which print a list of values.

    Args:
      begun: names of machines that are left out.
      do: runs a command.
      words: of the command, with the machine's or node's name.
    """
    path = f"{bootstrap.METADATA}/{bootstrap.FAILED}"
    zone = f"--zone={self.rented.zone}"
    flags = (zone, f"--query-path={path}", "--format=json")
    try:
      found = json.loads(do(self.gcloud(*words, *flags)) or "[]")
    except commands.Failed:  # There is no such value, or no right to read it.
      return []
    records = [json.loads(item["value"]) for item in found]
    return [record for record in records if record["host"] not in begun]

  @property
  def host_metadata(self) -> str:
    """What a machine's metadata needs: the folder, and guest attributes."""
    folder = f"{bootstrap.METADATA}={self.rented.folder}"
    return f"{folder},enable-guest-attributes=TRUE"

  @property
  def label(self) -> str:
    """The label of every resource that can have one."""
    return f"{LABEL}={self.rented.name}"

  def place(self, index: int) -> tuple[int, int]:
    """Returns a host's slice, and its number in that.

    Raises:
      ValueError: there is no such host.
    """
    if not 0 <= index < self.rented.hosts:
      raise ValueError(
        f"A host must be 0 to {self.rented.hosts - 1}, got {index}. Name one."
      )
    return divmod(index, self.rented.shape.hosts)
