"""The state machine of `watch`: what to do next.

A pure function of what `watch` knew and of what it sees. It reads no clock and
runs nothing, so tests can walk any sequence of events through it. The phases
are the same for all ways of renting.
"""

import dataclasses

from launch import ends
from launch.states import ENDS, Action, Phase, Policy, Sight, State
from launch.ways.way import Standing

_NOT_WHOLE = (Standing.ABSENT, Standing.DELETING, Standing.PREEMPTED)
"""What resources can look like of which only some have been created."""


def step(state: State, sight: Sight, policy: Policy) -> tuple[State, Action]:
  """Returns what is known now, and what to do.

  The returned state's `unfinished` is that action; it comes again until whoever
  did it sets NOTHING. Each action can be repeated.
  """
  state, action = _judge(_counted(state, sight), sight, policy)
  # Of a run that has ended, only what is left is still deleted.
  if action is Action.NOTHING and (
    state.phase not in ENDS or state.unfinished is Action.DELETE
  ):
    action = state.unfinished
  return dataclasses.replace(state, unfinished=action), action


def _judge(state: State, sight: Sight, policy: Policy) -> tuple[State, Action]:
  if state.phase in ENDS:
    return state, _cleared(state, sight, policy)
  if any(host.code == 0 for host in sight.hosts):
    # All hosts write the last save together, before any of them ends.
    state = _to(state, Phase.FINISHED, "the recipe is done")
    return state, _cleared(state, sight, policy)
  if state.phase in (Phase.PREEMPTED, Phase.RETRYING):
    return _again(state, sight)
  return _attempt(state, sight, policy)


def _cleared(state: State, sight: Sight, policy: Policy) -> Action:
  """Returns what frees the chips that the run needs no more."""
  over = state.phase in (Phase.FINISHED, Phase.FAILED) and not policy.keep
  gone = sight.seen.standing in (Standing.ABSENT, Standing.DELETING)
  return Action.DELETE if over and not gone else Action.NOTHING


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
  """Creates the resources anew, or restarts the training on them."""
  standing = sight.seen.standing
  if state.anew:
    if standing is Standing.DELETING:
      return state, Action.NOTHING
    if standing is not Standing.ABSENT:
      return state, Action.DELETE
  elif standing is not Standing.ACTIVE:
    return _preempted(state, sight)
  if sight.stop:
    return _to(state, Phase.STOPPED, "as you asked"), Action.NOTHING
  if sight.now < state.again_at:
    return state, Action.NOTHING
  if state.anew:
    return _begin(state, sight, Phase.WAITING, created=False), Action.CREATE
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
  """Goes on with an attempt that has not ended yet."""
  standing, said = sight.seen.standing, sight.seen.said
  if state.unfinished is Action.CREATE and standing in _NOT_WHOLE:
    return state, Action.CREATE
  match standing:
    case Standing.ABSENT if not state.created:
      return state, Action.CREATE
    case Standing.DELETING if not state.created:
      return state, Action.NOTHING  # An earlier run's; `create` settled on it.
    case Standing.ABSENT | Standing.DELETING:
      return _to(state, Phase.GONE, "somebody deleted it"), Action.NOTHING
    case Standing.QUOTA:
      reason = f"the project's quota does not allow it: {said}"
      return _failed(state, sight, policy, reason)
    case Standing.STOCKOUT:
      return _out_of_capacity(state, said, policy)
    case Standing.BROKEN:
      unstarted = [host.said for host in sight.hosts if not host.started]
      reason = f"the slices failed: {[*unstarted, said][0]}"
      return _crashed(state, sight, policy, reason, anew=True)
    case Standing.PREEMPTED:
      return _preempted(state, sight)
    case Standing.WAITING | Standing.PROVISIONING:
      if state.active_since is not None:
        return _preempted(state, sight)  # It was active, and is no longer.
      waiting = standing is Standing.WAITING
      phase = Phase.WAITING if waiting else Phase.PROVISIONING
      return _to(state, phase, said, created=True), Action.NOTHING
  if state.active_since is None:
    state = dataclasses.replace(state, active_since=sight.now, stockouts=0)
  state = dataclasses.replace(state, created=True)
  return _hosts(state, sight, policy)


def _hosts(state: State, sight: Sight, policy: Policy) -> tuple[State, Action]:
  """Judges the hosts of active slices."""
  assert state.active_since is not None
  if any(host.code is not None for host in sight.hosts):
    return _ended(state, sight, policy)
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
    reason = f"no report from {', '.join(silent)}"
    return _crashed(state, sight, policy, reason, anew=True)
  return _to(state, Phase.RUNNING, "training"), Action.NOTHING


def _ended(state: State, sight: Sight, policy: Policy) -> tuple[State, Action]:
  """Judges an attempt of which at least one host has ended, none with 0."""
  ended = [host for host in sight.hosts if host.code is not None]
  ended_since = sight.now if state.ended_since is None else state.ended_since
  state = dataclasses.replace(state, ended_since=ended_since)
  settled = sight.now - ended_since >= policy.settle_s
  if len(ended) < policy.hosts and not settled:
    return _to(state, Phase.RUNNING, "a host has ended"), Action.NOTHING
  if any(host.notice == "stop" for host in ended):
    return _to(state, Phase.STOPPED, "as you asked"), Action.NOTHING
  end = ends.explain(ended)
  if end.final:
    return _failed(state, sight, policy, end.reason)
  if not end.terminated:
    return _crashed(state, sight, policy, end.reason, end.anew, end.of_training)
  if not settled:
    # Whoever gave the warning may still take the machines.
    return _to(state, Phase.RUNNING, "saved, and ended"), Action.NOTHING
  if sight.step is not None and sight.step != state.begun_step:
    state = _to(state, Phase.RETRYING, end.reason, anew=False)
    return state, Action.NOTHING
  return _crashed(state, sight, policy, end.reason, anew=False)


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
  state = _to(
    state,
    Phase.RETRYING,
    f"the zone is out of capacity: {said}",
    anew=True,
    again_at=state.now + _wait_s(policy, state.stockouts),
    stockouts=state.stockouts + 1,
  )
  return state, Action.DELETE


def _crashed(
  state: State,
  sight: Sight,
  policy: Policy,
  reason: str,
  anew: bool,
  of_training: bool = True,
) -> tuple[State, Action]:
  crashes = state.crashes + 1
  state = dataclasses.replace(state, crashes=crashes)
  known = sight.step is not None
  again = crashes > 1 and sight.step == state.failed_step
  # Machines fail at any step. Before the first, their start-up may be at fault.
  if again and of_training and not (anew and known):
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
    again_at=sight.now + _wait_s(policy, crashes - 1),
    failed_step=sight.step if of_training and not anew else state.failed_step,
  )
  return state, Action.DELETE if anew else Action.NOTHING


def _failed(
  state: State, sight: Sight, policy: Policy, reason: str
) -> tuple[State, Action]:
  state = _to(state, Phase.FAILED, reason)
  return state, _cleared(state, sight, policy)


def _wait_s(policy: Policy, count: int) -> float:
  return min(policy.longest_wait_s, policy.back_off_s * 2 ** min(count, 20))
