"""What `watch` knows and sees of a run, and what it can do about it."""

from collections.abc import Sequence
import dataclasses
import enum

from launch.ways.way import Seen


class Phase(enum.StrEnum):
  """Where a run is; the last four are ends."""

  WAITING = "waiting"
  PROVISIONING = "provisioning"
  RUNNING = "running"
  PREEMPTED = "preempted"
  RETRYING = "retrying"
  FINISHED = "finished"
  STOPPED = "stopped"
  FAILED = "failed"
  GONE = "gone"


ENDS = frozenset((Phase.FINISHED, Phase.STOPPED, Phase.FAILED, Phase.GONE))


class Action(enum.StrEnum):
  """What `watch` does next."""

  NOTHING = "nothing"
  CREATE = "create"
  DELETE = "delete"
  RESTART = "restart"
  """Order the running hosts to begin the new attempt."""


@dataclasses.dataclass(frozen=True)
class Host:
  """What is known of a host in one attempt.

  Attributes:
    name: SLICE-WORKER, and the machine's own name.
    code: the training's exit status; None while it runs.
    said: the last line of its log.
    updated: when the host last reported, by its clock, in seconds since 1970.
    notice: why it was told to end; None: it was not.
    started: whether its start-up script succeeded.
  """

  name: str
  code: int | None
  said: str
  updated: float
  notice: str | None = None
  started: bool = True


@dataclasses.dataclass(frozen=True)
class Sight:
  """What `watch` sees at one moment.

  Attributes:
    seen: the state of the resources.
    hosts: those that have begun the attempt, or failed to.
    step: the last step that the training has begun; None: none yet.
    now: in seconds since 1970.
    stop: whether `stop` was ordered.
  """

  seen: Seen
  hosts: Sequence[Host]
  step: int | None
  now: float
  stop: bool = False


@dataclasses.dataclass(frozen=True)
class Policy:
  """How long `watch` waits, and how often it tries again.

  Attributes:
    hosts: how many the run needs.
    retries: restarts after crashes, in the whole run.
    back_off_s: before the first restart. Each next wait is twice as long, up to
      `longest_wait_s`. Creations after a stock-out wait alike.
    longest_wait_s: the longest of these waits.
    join_s: in which all hosts have to begin.
    settle_s: in which the other hosts have to end after one has ended.
    silent_s: after which a host that reports nothing counts as lost.
    keep: whether the slices stay after the run has finished or failed.
  """

  hosts: int
  retries: int = 5
  back_off_s: float = 30
  longest_wait_s: float = 900
  join_s: float = 1200
  settle_s: float = 90
  silent_s: float = 300
  keep: bool = False


@dataclasses.dataclass(frozen=True)
class State:
  """What `watch` knows; watch.json holds it.

  Attributes:
    phase: where the run is.
    since: when that phase began, in seconds since 1970.
    reason: why the run is in that phase, for its user.
    attempt: counts the starts of the training.
    created: whether the attempt's resources have been seen.
    active_since: when they were first active; None: not yet in this attempt.
    ended_since: when the first host was seen to have ended; None: none has.
    again_at: when the next creation or restart is allowed.
    anew: whether that deletes and creates the resources; else it restarts the
      training on the same machines.
    preemptions, crashes: counts over the whole run.
    stockouts: how many came one after the other.
    failed_step: the step of the training's last crash; None: before its first.
    begun_step: the step from which the attempt began.
    active_s: for how long the chips were held, over all attempts.
    now: when `watch` last looked.
    unfinished: an action that was decided, and has not succeeded yet.
  """

  phase: Phase
  since: float
  reason: str = ""
  attempt: int = 1
  created: bool = False
  active_since: float | None = None
  ended_since: float | None = None
  again_at: float = 0.0
  anew: bool = False
  preemptions: int = 0
  crashes: int = 0
  stockouts: int = 0
  failed_step: int | None = None
  begun_step: int | None = None
  active_s: float = 0.0
  now: float = 0.0
  unfinished: Action = Action.NOTHING
