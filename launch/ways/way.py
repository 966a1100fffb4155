"""What a way of renting slices says and does."""

import abc
import dataclasses
import enum

from launch.commands import Command, Run
from launch.slice import LABEL, Slice


class Standing(enum.StrEnum):
  """How a way's resources stand, in words that are the same for all ways."""

  ABSENT = "absent"
  WAITING = "waiting for capacity"
  PROVISIONING = "being provisioned"
  ACTIVE = "active"
  PREEMPTED = "preempted"
  STOCKOUT = "out of capacity"
  QUOTA = "beyond the quota"
  BROKEN = "failed"
  DELETING = "being deleted"


@dataclasses.dataclass(frozen=True)
class Seen:
  """What was found of the resources.

  Attributes:
    standing: theirs.
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
  """Returns what the whole is worth: a slice that lacks one is none.

  Where some are absent and others not, what is left is being deleted.
  """
  absent = [s for s in seen if s.standing is Standing.ABSENT]
  if absent and len(absent) < len(seen):
    seen = [s for s in seen if s not in absent]
    seen.append(Seen(Standing.DELETING, "some are gone"))
  return min(seen, key=lambda s: _WORST_FIRST.index(s.standing))


class Way(abc.ABC):
  """A way of renting `rented`; its commands cite the pages that describe them.

  Every command can be given again: one that finds its work done has done it.
  """

  def __init__(self, rented: Slice):
    self.rented = rented

  @abc.abstractmethod
  def create(self) -> list[Command]:
    """Returns what asks for the slices."""

  @abc.abstractmethod
  def delete(self) -> list[Command]:
    """Returns what removes all that `create` made, and nothing else."""

  @abc.abstractmethod
  def observe(self, do: Run) -> Seen:
    """Returns how the slices stand.

    Raises:
      Failed: they could not be looked at.
    """

  @abc.abstractmethod
  def ssh(self, index: int, machine: str, words: str | None) -> Command:
    """Returns what logs in to a host, or runs `words` there.

    Args:
      index: of the host, in all slices.
      machine: what it calls itself.
      words: a command for its shell.
    """

  @abc.abstractmethod
  def left(self) -> list[Command]:
    """Returns what lists everything under the same label."""

  def manifest(self) -> str | None:
    """Returns what `create` hands to kubectl; None: nothing."""
    return None

  def gcloud(self, *words: str, settled_by: tuple[str, ...] = ()) -> Command:
    """Returns a command of gcloud for the project, that asks no question."""
    project = f"--project={self.rented.project}"
    return Command(
      ("gcloud", *words, project, "--quiet"), settled_by=settled_by
    )

  @property
  def label(self) -> str:
    """Of everything that can have one."""
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
