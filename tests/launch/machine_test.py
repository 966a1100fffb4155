"""The state machine, by examples and by random walks."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from drope_jax.exits import Exit
from launch import machine
from launch.machine import Action, Host, Phase, Policy, Sight, State
from launch.ways.way import Seen, Standing

POLICY = Policy(hosts=2, retries=3, back_off_s=10, settle_s=60, join_s=600)


def _host(worker=0, code=None, said="", now=0.0, notice=None, started=True):
  return Host(f"host 0-{worker}", code, said, now, notice, started)


def _sight(standing, hosts=(), step=None, now=0.0, said=""):
  return Sight(Seen(standing, said), hosts, step, now)


def _running(now=0.0, **known) -> State:
  """Returns what is known once both hosts train."""
  return State(
    Phase.RUNNING, since=now, created=True, active_since=now, now=now, **known
  )


def _both(*codes, said="", notice=None):
  return [
    _host(worker, code, said, notice=notice)
    for worker, code in enumerate(codes)
  ]


def _walk(state, *sights):
  """Returns the last state, and each step's action."""
  actions = []
  for sight in sights:
    state, action = machine.step(state, sight, POLICY)
    actions.append(action)
  return state, actions


def test_it_waits_for_capacity_and_says_how_long():
  state = State(Phase.WAITING, since=100.0, now=100.0)
  state, actions = _walk(
    state,
    _sight(Standing.ABSENT, now=100),
    _sight(Standing.WAITING, now=130),
    _sight(Standing.WAITING, now=3700),
  )
  assert actions == [Action.CREATE, Action.NOTHING, Action.NOTHING]
  assert (state.phase, state.since) == (Phase.WAITING, 100)


def test_quota_ends_it_and_a_stock_out_does_not():
  state = State(Phase.WAITING, since=0.0)
  short, actions = _walk(state, _sight(Standing.QUOTA, said="TPUS: 0"))
  assert short.phase is Phase.FAILED and "quota" in short.reason
  assert actions == [Action.DELETE], "what failed holds quota"
  waits = []
  for _ in range(12):
    state, actions = _walk(state, _sight(Standing.STOCKOUT, now=state.now))
    assert (state.phase, actions) == (Phase.RETRYING, [Action.DELETE])
    assert "out of capacity" in state.reason
    waits.append(state.again_at - state.now)
    state, actions = _walk(state, _sight(Standing.ABSENT, now=state.again_at))
    assert actions == [Action.CREATE]
  assert waits == sorted(waits) and waits[1] == 2 * waits[0]
  assert waits[-1] == POLICY.longest_wait_s
  assert state.crashes == 0


def test_preempted_it_deletes_until_nothing_is_left_and_creates_anew():
  state, actions = _walk(
    _running(),
    _sight(Standing.PREEMPTED, _both(None, None), 5, now=1),
    _sight(Standing.PREEMPTED, _both(None, None), 5, now=2),  # It failed.
    _sight(Standing.DELETING, now=3),
    _sight(Standing.ABSENT, now=4),
    _sight(Standing.WAITING, now=5),
  )
  want = [Action.DELETE, Action.DELETE, Action.NOTHING, Action.CREATE]
  assert actions == [*want, Action.NOTHING]
  assert (state.phase, state.attempt) == (Phase.WAITING, 2)
  assert (state.preemptions, state.crashes) == (1, 0)


def test_a_slice_that_is_whole_no_more_was_preempted():
  state, _ = _walk(_running(), _sight(Standing.PROVISIONING, now=1))
  assert state.phase is Phase.PREEMPTED


@pytest.mark.parametrize("codes", [(0, 0), (0, None), (0, Exit.HOST_LOST)])
def test_a_clean_end_is_never_run_again(codes):
  state, actions = _walk(_running(), _sight(Standing.ACTIVE, _both(*codes)))
  assert (state.phase, actions) == (Phase.FINISHED, [Action.DELETE])
  for standing in Standing:
    after, actions = _walk(state, _sight(standing, now=9))
    assert after.phase is Phase.FINISHED
    assert actions[0] in (Action.DELETE, Action.NOTHING)


def test_finished_as_its_machines_went_it_is_finished():
  sight = _sight(Standing.PREEMPTED, _both(0, 0))
  assert _walk(_running(), sight)[0].phase is Phase.FINISHED


def test_slices_are_kept_where_the_user_says_so():
  keep = dataclasses.replace(POLICY, keep=True)
  sight = _sight(Standing.ACTIVE, _both(0, 0))
  state, action = machine.step(_running(), sight, keep)
  assert (state.phase, action) == (Phase.FINISHED, Action.NOTHING)


def test_a_crash_is_tried_again_after_a_wait_on_the_same_machines():
  crashed = _sight(Standing.ACTIVE, _both(1, Exit.HOST_LOST, said="x"), 5, 10)
  state, actions = _walk(_running(), crashed)
  assert (state.phase, actions) == (Phase.RETRYING, [Action.NOTHING])
  assert "host 0-0" in state.reason and "crash" in state.reason
  early = dataclasses.replace(crashed, now=state.again_at - 1)
  late = dataclasses.replace(crashed, now=state.again_at)
  state, actions = _walk(state, early, late)
  assert actions == [Action.NOTHING, Action.RESTART]
  assert (state.phase, state.attempt) == (Phase.RUNNING, 2)


def test_the_same_step_never_fails_a_third_time():
  state = _running()
  for now in (0, 100):
    state, _ = _walk(
      state,
      _sight(Standing.ACTIVE, _both(1, 1), 5, now),
      _sight(Standing.ACTIVE, (), 5, now + 50),
    )
  assert state.phase is Phase.FAILED
  assert "twice at step 5" in state.reason


def test_crashes_at_new_steps_end_it_in_time():
  state, now = _running(), 0.0
  for crash in range(POLICY.retries + 1):
    assert state.phase is Phase.RUNNING
    state, _ = _walk(
      state,
      _sight(Standing.ACTIVE, _both(1, 1), crash, now),
      _sight(Standing.ACTIVE, (), crash, now + 1000),
    )
    now += 2000
  assert state.phase is Phase.FAILED and "4 crashes" in state.reason


@pytest.mark.parametrize(
  ("code", "word"),
  [
    (Exit.OUT_OF_MEMORY, "out of memory"),
    (Exit.KILLED, "memory is full"),
    (Exit.MISTAKE, "mistake"),
  ],
)
def test_what_would_only_fail_again_is_not_tried_again(code, word):
  sight = _sight(Standing.ACTIVE, _both(Exit.HOST_LOST, code, said="why"))
  state, actions = _walk(_running(), sight)
  assert (state.phase, actions) == (Phase.FAILED, [Action.DELETE])
  assert word in state.reason and "host 0-1" in state.reason
  assert "why" in state.reason


def test_a_warning_ends_in_a_save_that_is_no_crash():
  saved = _both(Exit.TERMINATED, Exit.TERMINATED, notice="maintenance-event")
  state, _ = _walk(
    _running(),
    _sight(Standing.ACTIVE, saved, 5, now=1),
    _sight(Standing.ACTIVE, saved, 5, now=30),
  )
  assert state.phase is Phase.RUNNING, "the machines may go yet"
  state, _ = _walk(state, _sight(Standing.ACTIVE, saved, 5, now=70))
  assert state.phase is Phase.RETRYING and "maintenance-event" in state.reason
  state, actions = _walk(state, _sight(Standing.ACTIVE, saved, 5, now=71))
  assert actions == [Action.RESTART] and state.crashes == 0
  # The same again without a step between is one.
  again = _sight(Standing.ACTIVE, saved, 5, now=200)
  state, _ = _walk(state, again, dataclasses.replace(again, now=300))
  assert state.crashes == 1


def test_stopped_it_stays_stopped_and_keeps_its_slices():
  stopped = _both(Exit.TERMINATED, Exit.TERMINATED, notice="stop")
  state, actions = _walk(_running(), _sight(Standing.ACTIVE, stopped, 5))
  assert (state.phase, actions) == (Phase.STOPPED, [Action.NOTHING])


def test_hosts_that_do_not_come_are_counted():
  sight = _sight(Standing.ACTIVE, [_host(0)], now=POLICY.join_s + 1)
  state, actions = _walk(_running(), sight)
  assert actions == [Action.DELETE] and "1 of 2 hosts" in state.reason


def test_a_host_that_falls_silent_is_named():
  now = POLICY.silent_s + 1
  hosts = [_host(0, now=now), _host(1, now=0.0)]
  state, _ = _walk(_running(), _sight(Standing.ACTIVE, hosts, 5, now))
  assert "nothing is heard of host 0-1" in state.reason


def test_a_failed_start_up_script_is_run_on_new_machines():
  hosts = [_host(0), _host(1, 1, "uv failed", started=False)]
  state, actions = _walk(
    _running(),
    _sight(Standing.ACTIVE, hosts, now=1),
    _sight(Standing.ACTIVE, hosts, now=70),
  )
  assert actions == [Action.NOTHING, Action.DELETE]
  assert "uv failed" in state.reason


def test_deleted_by_somebody_else_it_is_gone():
  state, actions = _walk(_running(), _sight(Standing.ABSENT))
  assert (state.phase, actions) == (Phase.GONE, [Action.NOTHING])


def test_hours_are_counted_while_chips_are_held():
  state, _ = _walk(
    _running(now=10.0),
    _sight(Standing.ACTIVE, _both(None, None), 1, 110),
    _sight(Standing.PREEMPTED, now=210),
    _sight(Standing.ABSENT, now=310),
  )
  assert state.active_s == 100


_CODES = st.sampled_from(
  [None, None, None, 0, 1, *(int(exit) for exit in Exit), 139]
)
_EVENTS = st.lists(
  st.tuples(
    st.sampled_from(list(Standing)),
    st.tuples(_CODES, _CODES),
    st.booleans(),
    st.sampled_from([1.0, 61.0, 700.0]),
    st.sampled_from([None, "stop", "preempted"]),
  ),
  max_size=40,
)


class _World:
  """Resources and hosts that obey actions, between events."""

  def __init__(self):
    self.state = State(Phase.WAITING, since=0.0)
    self.there = False
    self.now, self.step = 0.0, None
    self.clean: set[int] = set()
    self.ends: list[tuple[int, Phase]] = []

  def turn(self, standing, codes, steps, elapsed, notice) -> None:
    self.now += elapsed
    going = standing in (Standing.ABSENT, Standing.DELETING)
    if not self.there and not going:
      standing = Standing.ABSENT
    elif self.there and going:
      standing = Standing.ACTIVE  # Nobody else deletes.
    hosts = ()
    if standing is Standing.ACTIVE and self.state.active_since is not None:
      if steps:
        self.step = (self.step or 0) + 1
      hosts = [
        _host(worker, code, now=self.now, notice=notice)
        for worker, code in enumerate(codes)
      ]
      if 0 in codes:
        self.clean.add(self.state.attempt)
    sight = _sight(standing, hosts, self.step, self.now)
    state, action = machine.step(self.state, sight, POLICY)
    if action in (Action.CREATE, Action.RESTART):
      assert not self.clean, "a clean end was run again"
      assert self.state.phase not in machine.ENDS
    if action is Action.CREATE:
      self.there = True
    elif action is Action.DELETE:
      assert self.there, "it deleted what was not there"
      self.there = False
    self.state = state


@given(_EVENTS)
@settings(max_examples=150, deadline=None)
def test_no_walk_runs_a_clean_end_again_or_crashes_for_ever(events):
  world = _World()
  for event in events:
    before = world.state
    world.turn(*event)
    assert world.state.crashes <= POLICY.retries + 1
    assert world.state.attempt >= before.attempt
    if before.phase in machine.ENDS:
      assert world.state.phase is before.phase


@given(_EVENTS)
@settings(max_examples=150, deadline=None)
def test_every_state_has_a_way_to_the_end_that_leaks_nothing(events):
  world = _World()
  for event in events:
    world.turn(*event)
  # From here on nothing goes wrong.
  for _ in range(12):
    finishes = world.state.active_since is not None
    codes = (0, 0) if finishes else (None, None)
    world.turn(Standing.ACTIVE, codes, True, 1000.0, None)
  assert world.state.phase in machine.ENDS
  if world.state.phase is not Phase.STOPPED:
    assert not world.there
