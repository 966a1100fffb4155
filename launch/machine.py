"""What `watch` does next: a function of what it knew, and of what it sees.

It reads no clock and runs nothing, so that any sequence of events can be
walked through it. The phases are the same for all ways.
"""

from collections.abc import Sequence
import dataclasses
import enum

from drope_jax.exits import Exit
from launch.ways.way import Seen, Standing


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
  """What is to be done now."""

  NOTHING = "nothing"
  CREATE = "create"
  DELETE = "delete"
  RESTART = "restart"
  """Order the hosts, which are there, to begin the new attempt."""


@dataclasses.dataclass(frozen=True)
class Host:
  """A host's record of the attempt.

  Attributes:
    name: SLICE-WORKER, and what the machine calls itself.
    code: the training's exit status; None: it goes on.
    said: the last thing that it said.
    updated: when, by the host's clock, in seconds.
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
  """What `watch` sees.

  Attributes:
    seen: of the resources.
    hosts: the records of the attempt.
    step: the last one known of; None: none.
    now: in seconds.
  """

  seen: Seen
  hosts: Sequence[Host]
  step: int | None
  now: float


@dataclasses.dataclass(frozen=True)
class Policy:
  """How patient it is.

  Attributes:
    hosts: that the run needs.
    retries: after crashes, in the whole run.
    back_off_s: before the first; each waits twice as long as the one before,
      up to `longest_wait_s`, as do creations after a stock-out.
    longest_wait_s: of these.
    join_s: for all hosts to begin.
    settle_s: after one host has ended, for the others.
    silent_s: after which a host that tells nothing is lost.
    keep: whether slices stay when the run has finished or failed.
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
  """What `watch` knows; it is written after every change.

  Attributes:
    phase: of the run.
    since: when that began, in seconds.
    reason: of the phase, for its user.
    attempt: counts every start of the training.
    created: whether the attempt's resources have been seen.
    active_since: when they were first active; None: not in this attempt.
    ended_since: when a host was first seen to have ended; None: none has.
    again_at: not before this is anything created or restarted.
    anew: whether the resources are deleted and created, not only the training.
    preemptions, crashes, stockouts: counts; stock-outs in a row.
    failed_step: of the last crash.
    begun_step: that the attempt began from.
    active_s: for which the chips were held, of all attempts.
    now: when it last looked.
    unfinished: an action that was begun; it is done again unless it was ended.
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


def step(state: State, sight: Sight, policy: Policy) -> tuple[State, Action]:
  """Returns what is known now, and what is to be done.

  The same action may come again: each can be repeated.
  """
  state = _counted(state, sight)
  if state.phase in ENDS:
    return state, _cleared(state, sight, policy)
  if any(host.code == 0 for host in sight.hosts):
    # The last save is all hosts' together, before any of them ends.
    state = _to(state, Phase.FINISHED, "the recipe is done")
    return state, _cleared(state, sight, policy)
  if state.phase in (Phase.PREEMPTED, Phase.RETRYING):
    return _again(state, sight)
  return _attempt(state, sight, policy)


def _cleared(state: State, sight: Sight, policy: Policy) -> Action:
  """Returns what frees chips that nothing uses any more."""
  over = state.phase in (Phase.FINISHED, Phase.FAILED) and not policy.keep
  gone = sight.seen.standing in (Standing.ABSENT, Standing.DELETING)
  return Action.DELETE if over and not gone else Action.NOTHING


def _failed(
  state: State, sight: Sight, policy: Policy, reason: str
) -> tuple[State, Action]:
  state = _to(state, Phase.FAILED, reason)
  return state, _cleared(state, sight, policy)


def _counted(state: State, sight: Sight) -> State:
  held = sight.seen.standing is Standing.ACTIVE
  elapsed = sight.now - state.now if state.now and held else 0
  return dataclasses.replace(
    state, active_s=state.active_s + max(0, elapsed), now=sight.now
  )


def _to(state: State, phase: Phase, reason: str, **changes) -> State:
  since = state.since if phase is state.phase else state.now
  return dataclasses.replace(
    state, phase=phase, since=since, reason=reason, **changes
  )


def _again(state: State, sight: Sight) -> tuple[State, Action]:
  """Deletes what is left, and creates it anew; or restarts what is there."""
  standing = sight.seen.standing
  if state.anew:
    if standing is Standing.DELETING:
      return state, Action.NOTHING
    if standing is not Standing.ABSENT:
      return state, Action.DELETE
    if sight.now < state.again_at:
      return state, Action.NOTHING
    return _begin(state, sight, Phase.WAITING, created=False), Action.CREATE
  if standing is not Standing.ACTIVE:
    return _preempted(state, sight)
  if sight.now < state.again_at:
    return state, Action.NOTHING
  begun = _begin(state, sight, Phase.RUNNING, created=True)
  return dataclasses.replace(begun, active_since=sight.now), Action.RESTART


def _begin(state: State, sight: Sight, phase: Phase, created: bool) -> State:
  return _to(
    state,
    phase,
    "",
    attempt=state.attempt + 1,
    created=created,
    active_since=None,
    ended_since=None,
    begun_step=sight.step,
  )


def _attempt(
  state: State, sight: Sight, policy: Policy
) -> tuple[State, Action]:
  """Goes on with an attempt that nothing has ended yet."""
  standing, said = sight.seen.standing, sight.seen.said
  if standing is Standing.ABSENT:
    if state.created:
      reason = "somebody else deleted it"
      return _to(state, Phase.GONE, reason), Action.NOTHING
    return state, Action.CREATE
  if standing is Standing.QUOTA:
    reason = f"the project's quota does not allow it: {said}"
    return _failed(state, sight, policy, reason)
  if standing is Standing.STOCKOUT:
    return _out_of_capacity(state, said, policy)
  if standing is Standing.BROKEN:
    reason = f"Google Cloud could not make it: {said}"
    return _crashed(state, sight, policy, reason, anew=True)
  state = dataclasses.replace(state, created=True)
  if standing is Standing.PREEMPTED:
    return _preempted(state, sight)
  if standing is not Standing.ACTIVE and state.active_since is not None:
    return _preempted(state, sight)  # It was whole, and is not any more.
  if standing is Standing.DELETING:
    return _to(state, Phase.GONE, "somebody else deletes it"), Action.NOTHING
  if standing is not Standing.ACTIVE:
    waiting = standing is Standing.WAITING
    phase = Phase.WAITING if waiting else Phase.PROVISIONING
    return _to(state, phase, said), Action.NOTHING
  if state.active_since is None:
    state = dataclasses.replace(state, active_since=sight.now, stockouts=0)
  return _hosts(state, sight, policy)


def _hosts(state: State, sight: Sight, policy: Policy) -> tuple[State, Action]:
  """Judges the hosts of slices that are there."""
  ended = [host for host in sight.hosts if host.code is not None]
  if ended:
    return _ended(state, sight, policy, ended)
  if len(sight.hosts) < policy.hosts:
    if sight.now - state.active_since > policy.join_s:
      count = f"{len(sight.hosts)} of {policy.hosts} hosts"
      reason = f"only {count} began within {policy.join_s:.0f} s"
      return _crashed(state, sight, policy, reason, anew=True)
    return _to(state, Phase.RUNNING, "hosts are starting"), Action.NOTHING
  silent = [
    host.name
    for host in sight.hosts
    if sight.now - max(host.updated, state.active_since) > policy.silent_s
  ]
  if silent:
    reason = f"nothing is heard of {', '.join(silent)}"
    return _crashed(state, sight, policy, reason, anew=True)
  return _to(state, Phase.RUNNING, "training"), Action.NOTHING


def _ended(
  state: State, sight: Sight, policy: Policy, ended: list[Host]
) -> tuple[State, Action]:
  if state.ended_since is None:
    state = dataclasses.replace(state, ended_since=sight.now)
  settled = sight.now - state.ended_since >= policy.settle_s
  if len(ended) < policy.hosts and not settled:
    return _to(state, Phase.RUNNING, "a host has ended"), Action.NOTHING
  if any(host.notice == "stop" for host in ended):
    return _to(state, Phase.STOPPED, "as you asked"), Action.NOTHING
  blamed = min(ended, key=_rank)
  reason = f"{blamed.name}: {blamed.said}"
  if _never_again(blamed):
    return _failed(state, sight, policy, f"{_word(blamed.code)}; {reason}")
  if blamed.code == Exit.TERMINATED:
    # Whoever warned may take the machines yet: once settled, they stay.
    if not settled:
      return _to(state, Phase.RUNNING, "saved, and ended"), Action.NOTHING
    reason = f"{blamed.name} was told to end: {blamed.notice or 'by a signal'}"
    if sight.step is not None and sight.step != state.begun_step:
      state = _to(state, Phase.RETRYING, reason, anew=False)
      return state, Action.NOTHING
    return _crashed(state, sight, policy, reason, anew=False)
  reason = f"{_word(blamed.code)}; {reason}"
  # A start-up script runs when a machine boots.
  anew = not all(host.started for host in ended)
  return _crashed(state, sight, policy, reason, anew)


def _rank(host: Host) -> int:
  """Returns how far a host's end is from the cause of all ends."""
  if not host.started:
    return 0
  return {Exit.HOST_LOST: 4, Exit.TERMINATED: 3, Exit.STALLED: 2}.get(
    host.code, 1
  )


def _never_again(host: Host) -> bool:
  """Returns whether the same command would only fail again."""
  if host.code == Exit.KILLED:
    return host.notice is None  # Else it was this project that lost patience.
  return host.started and host.code in (Exit.MISTAKE, Exit.OUT_OF_MEMORY)


def _word(code: int) -> str:
  return {
    Exit.BUG: "a crash",
    Exit.MISTAKE: "a mistake",
    Exit.OUT_OF_MEMORY: "out of memory",
    Exit.KILLED: "killed, as where the host's memory is full",
    Exit.HOST_LOST: "a host was lost",
    Exit.STALLED: "it stood still",
  }.get(code, f"exit status {code}")


def _preempted(state: State, sight: Sight) -> tuple[State, Action]:
  state = _to(
    state,
    Phase.PREEMPTED,
    sight.seen.said or str(sight.seen.standing),
    preemptions=state.preemptions + 1,
    anew=True,
    again_at=sight.now,
  )
  return _again(state, sight)


def _out_of_capacity(
  state: State, said: str, policy: Policy
) -> tuple[State, Action]:
  wait_s = _longer(policy, state.stockouts)
  reason = f"the zone is out of capacity: {said}"
  state = _to(
    state,
    Phase.RETRYING,
    reason,
    anew=True,
    again_at=state.now + wait_s,
    stockouts=state.stockouts + 1,
  )
  return state, Action.DELETE


def _crashed(
  state: State, sight: Sight, policy: Policy, reason: str, anew: bool
) -> tuple[State, Action]:
  crashes = state.crashes + 1
  state = dataclasses.replace(state, crashes=crashes)
  if crashes > 1 and sight.step == state.failed_step:
    known = sight.step is not None
    where = f"at step {sight.step}" if known else "before its first step"
    reason = f"twice {where}: {reason}"
    return _failed(state, sight, policy, reason)
  if crashes > policy.retries:
    reason = f"{crashes} crashes, the last: {reason}"
    return _failed(state, sight, policy, reason)
  state = _to(
    state,
    Phase.RETRYING,
    reason,
    anew=anew,
    again_at=sight.now + _longer(policy, crashes - 1),
    failed_step=sight.step,
  )
  return state, Action.DELETE if anew else Action.NOTHING


def _longer(policy: Policy, count: int) -> float:
  return min(policy.longest_wait_s, policy.back_off_s * 2 ** min(count, 20))
