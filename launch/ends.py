"""Why the hosts of an attempt have ended, and whether to try again."""

from collections.abc import Sequence
from typing import NamedTuple

from drope_jax.exits import Exit
from launch.states import Host

_WORDS: dict[int | None, str] = {
  Exit.BUG: "a crash",
  Exit.MISTAKE: "a mistake",
  Exit.OUT_OF_MEMORY: "out of memory",
  Exit.KILLED: "killed, as happens when the host's memory is full",
  Exit.HOST_LOST: "a host was lost",
  Exit.STALLED: "no step was taken for too long",
  Exit.UNREACHABLE: "a bucket or the network did not answer",
}


class End(NamedTuple):
  """How an attempt ended.

  Attributes:
    reason: in words, with the name of the host that ended first.
    terminated: whether that host was told to end, and saved its step.
    final: whether another attempt would only fail in the same way.
    anew: whether another attempt needs new machines.
    of_training: whether the step at which it ended may be why.
  """

  reason: str
  terminated: bool
  final: bool
  anew: bool
  of_training: bool


def explain(ended: Sequence[Host]) -> End:
  """Returns how an attempt ended.

  Args:
    ended: the hosts that have ended, at least one, none with status 0.
  """
  blamed = min(ended, key=_distance_from_cause)
  terminated = blamed.started and blamed.code == Exit.TERMINATED
  word = _WORDS.get(blamed.code, f"exit status {blamed.code}")
  if not blamed.started:
    word = "the start-up script failed"
  elif terminated:
    word = f"told to end by {blamed.notice or 'a signal'}"
  return End(
    reason=f"{word}; {blamed.name}: {blamed.said}",
    terminated=terminated,
    final=_fails_again(blamed),
    # A start-up script runs when a machine boots.
    anew=not all(host.started for host in ended),
    of_training=blamed.code != Exit.UNREACHABLE,
  )


def _distance_from_cause(host: Host) -> int:
  """Returns a number that is least for the host which ended by itself."""
  if not host.started:
    return 0
  match host.code:
    case Exit.HOST_LOST:
      return 4
    case Exit.TERMINATED:
      return 3
    case Exit.STALLED:
      return 2
  return 1


def _fails_again(host: Host) -> bool:
  if host.code == Exit.KILLED:
    return host.notice is None  # With one, the launcher itself killed it.
  return host.started and host.code in (Exit.MISTAKE, Exit.OUT_OF_MEMORY)
