"""The state machine, by examples and by random walks."""

import dataclasses
import json

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from drope_jax.exits import Exit
from launch import machine, watch
from launch.states import ENDS, Action, Host, Phase, Policy, Sight, State
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
  """Returns the last state, and each step's action, all of which succeed."""
  actions = []
  for sight in sights:
    state, action = machine.step(state, sight, POLICY)
    assert state.unfinished is action
    state = dataclasses.replace(state, unfinished=Action.NOTHING)
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


def test_each_wait_after_a_crash_is_twice_the_one_before():
  state = _running()
  waits = []
  for crash in range(POLICY.retries):
    crashed = _sight(Standing.ACTIVE, _both(1, 1), step=crash)
    state, _ = _walk(state, crashed)
    waits.append(state.again_at)
    again = _running(crashes=state.crashes, failed_step=state.failed_step)
    state = again
  assert waits == [10, 20, 40]


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


def test_machines_that_fail_twice_at_a_step_are_no_fault_of_that_step():
  late = POLICY.silent_s + 1
  silent = _sight(Standing.ACTIVE, [_host(0), _host(1)], 5, late)
  missing = _sight(Standing.ACTIVE, [_host(0)], 5, POLICY.join_s + 1)
  crashed = _sight(Standing.ACTIVE, _both(1, 1), 5)
  crashes, failed_step = 0, None
  for sight in (silent, missing, crashed):
    known = _running(crashes=crashes, failed_step=failed_step)
    state, _ = _walk(known, sight)
    assert state.phase is Phase.RETRYING, state.reason
    crashes, failed_step = state.crashes, state.failed_step
  assert (crashes, failed_step) == (3, 5)
  known = _running(crashes=1, failed_step=5)
  assert _walk(known, silent)[0].phase is Phase.RETRYING
  assert "twice at step 5" in _walk(known, crashed)[0].reason


def test_an_outage_is_no_fault_of_the_step():
  code = int(Exit.UNREACHABLE)
  out = _sight(Standing.ACTIVE, _both(code, code), 5)
  state = _running(crashes=1, failed_step=4)
  for crashes in (2, 3):
    state, (action,) = _walk(state, out)
    assert (state.phase, action) == (Phase.RETRYING, Action.NOTHING)
    assert (state.crashes, state.failed_step) == (crashes, 4)
    assert "did not answer" in state.reason
    state = _running(crashes=crashes, failed_step=4)
  assert _walk(state, out)[0].phase is Phase.FAILED  # After 3 retries.


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
  assert "no report from host 0-1" in state.reason


def test_a_failed_start_up_script_is_run_on_new_machines():
  hosts = [_host(0), _host(1, 1, "uv failed", started=False)]
  state, actions = _walk(
    _running(),
    _sight(Standing.ACTIVE, hosts, now=1),
    _sight(Standing.ACTIVE, hosts, now=70),
  )
  assert actions == [Action.NOTHING, Action.DELETE]
  assert "the start-up script failed" in state.reason
  assert "uv failed" in state.reason


def test_a_broken_slice_gives_the_reason_of_its_start_up_script():
  hosts = [_host(0, 1, "uv failed", started=False)]
  broken = _sight(Standing.BROKEN, hosts, said="a pod failed")
  state, actions = _walk(_running(), broken)
  assert actions == [Action.DELETE] and "uv failed" in state.reason


@pytest.mark.parametrize("standing", [Standing.ABSENT, Standing.DELETING])
def test_what_somebody_else_deletes_is_not_created_anew(standing):
  state, actions = _walk(_running(), _sight(standing))
  assert (state.phase, actions) == (Phase.GONE, [Action.NOTHING])


def test_what_an_earlier_run_leaves_is_waited_for_and_then_created_anew():
  state, actions = _walk(
    State(Phase.WAITING, since=0.0),
    _sight(Standing.DELETING, now=1),
    _sight(Standing.DELETING, now=2),
    _sight(Standing.ABSENT, now=3),
    _sight(Standing.WAITING, now=4),
  )
  wanted = [Action.NOTHING, Action.NOTHING, Action.CREATE, Action.NOTHING]
  assert actions == wanted
  assert (state.phase, state.attempt) == (Phase.WAITING, 1)


def test_a_creation_that_was_cut_off_is_completed():
  state, action = machine.step(
    State(Phase.WAITING, since=0.0), _sight(Standing.ABSENT), POLICY
  )
  assert action is Action.CREATE  # It fails after one of two slices.
  state, action = machine.step(state, _sight(Standing.PREEMPTED), POLICY)
  assert (state.phase, action) == (Phase.WAITING, Action.CREATE)
  assert state.preemptions == 0


def test_an_action_that_failed_comes_again_until_the_run_has_ended():
  state, _ = _walk(_running(), _sight(Standing.ACTIVE, _both(1, 1), 5))
  later = _sight(Standing.ACTIVE, now=state.again_at)
  for _ in range(2):
    state, action = machine.step(state, later, POLICY)
    assert (state.phase, action) == (Phase.RUNNING, Action.RESTART)
  assert state.attempt == 2
  stopped = _sight(Standing.ACTIVE, _both(143, 143, notice="stop"), 5)
  state, action = machine.step(state, stopped, POLICY)
  assert (state.phase, action) == (Phase.STOPPED, Action.NOTHING)


def test_stopped_between_two_attempts_it_begins_no_other():
  crashed = _sight(Standing.ACTIVE, _both(1, 1), 5)
  state, _ = _walk(_running(), crashed)
  asked = dataclasses.replace(crashed, now=state.again_at, stop=True)
  state, actions = _walk(state, asked)
  assert (state.phase, actions) == (Phase.STOPPED, [Action.NOTHING])
  preempted = _sight(Standing.PREEMPTED, step=5)
  state, _ = _walk(_running(), preempted)
  for standing, wanted in (
    (Standing.PREEMPTED, Action.DELETE),
    (Standing.ABSENT, Action.NOTHING),
  ):
    asked = dataclasses.replace(_sight(standing, now=9), stop=True)
    state, actions = _walk(state, asked)
    assert actions == [wanted]
  assert state.phase is Phase.STOPPED


def test_hours_are_counted_while_chips_are_held():
  state, _ = _walk(
    _running(now=10.0),
    _sight(Standing.ACTIVE, _both(None, None), 1, 110),
    _sight(Standing.PREEMPTED, now=210),
    _sight(Standing.ABSENT, now=310),
  )
  assert state.active_s == 100


@dataclasses.dataclass(frozen=True)
class _Event:
  """What happens between two looks.

  Attributes:
    standing: of the resources, where all of them exist.
    codes: of the hosts that report; None while the training runs.
    started: whether their start-up scripts succeeded.
    reports: how many hosts report at all.
    silent: whether they have said nothing for long.
    notice: why those that have ended were told to.
    steps: whether the training has taken a step.
    elapsed: in seconds.
    works: whether the action then succeeds; else it is done in half.
    stop: whether the user orders a stop.
  """

  standing: Standing
  codes: tuple[int | None, int | None] = (None, None)
  started: bool = True
  reports: int = 2
  silent: bool = False
  notice: str | None = None
  steps: bool = True
  elapsed: float = 61.0
  works: bool = True
  stop: bool = False


_CODES = st.sampled_from(
  [None, None, None, 0, 1, *(int(exit) for exit in Exit), 139]
)
_RARELY = st.sampled_from([False, False, False, True])
_MOSTLY = _RARELY.map(lambda rare: not rare)
_EVENTS = st.lists(
  st.builds(
    _Event,
    standing=st.sampled_from([Standing.ACTIVE, *Standing]),
    codes=st.tuples(_CODES, _CODES),
    started=_MOSTLY,
    reports=st.sampled_from([2, 2, 2, 1, 0]),
    silent=_RARELY,
    notice=st.sampled_from([None, None, "stop", "preempted", "shutdown"]),
    steps=st.booleans(),
    elapsed=st.sampled_from([1.0, 61.0, 700.0]),
    works=_MOSTLY,
    stop=st.sampled_from([False] * 9 + [True]),
  ),
  max_size=40,
)
_WHOLE, _PARTIAL, _NONE = 2, 1, 0


class _World:
  """Resources of two parts, and their hosts, which obey actions."""

  def __init__(self):
    self.state = State(Phase.WAITING, since=0.0)
    self.parts = _NONE
    self.now, self.step = 0.0, None
    self.ended_well = self.stop = False

  def turn(self, event: _Event) -> None:
    """Lets an event happen, looks, and does what is decided."""
    before = self.state
    self.now += event.elapsed
    self.stop |= event.stop
    standing = self._standing(event.standing)
    hosts = self._hosts(event) if standing is Standing.ACTIVE else ()
    sight = _sight(standing, hosts, self.step, self.now)
    sight = dataclasses.replace(sight, stop=self.stop)
    self.state, action = machine.step(before, sight, POLICY)
    assert self.state.unfinished is action
    assert self.state.crashes <= POLICY.retries + 1
    if before.phase in ENDS:
      assert self.state.phase is before.phase
      assert action in (Action.NOTHING, Action.DELETE)
    if action in (Action.CREATE, Action.RESTART):
      assert not self.ended_well, "a clean end was run again"
      assert self.state.phase not in ENDS
    if self.stop:
      assert self.state.attempt == before.attempt, "it began after a stop"
    self._obey(action, event.works)

  def _standing(self, wanted: Standing) -> Standing:
    if self.parts == _PARTIAL:
      refused = (Standing.QUOTA, Standing.STOCKOUT, Standing.BROKEN)
      return wanted if wanted in refused else Standing.PREEMPTED
    if self.parts == _WHOLE and wanted in (Standing.ABSENT, Standing.DELETING):
      self.parts = _NONE  # Somebody else deletes them.
      return wanted
    return wanted if self.parts == _WHOLE else Standing.ABSENT

  def _hosts(self, event: _Event) -> list[Host]:
    if self.state.active_since is None:
      return []
    if event.steps:
      self.step = (self.step or 0) + 1
    hosts = [
      _host(
        worker,
        code if event.started else 1,
        now=0.0 if event.silent else self.now,
        notice=None if code is None else event.notice,
        started=event.started,
      )
      for worker, code in enumerate(event.codes[: event.reports])
    ]
    self.ended_well |= any(host.code == 0 for host in hosts)
    return hosts

  def _obey(self, action: Action, works: bool) -> None:
    if action is Action.CREATE:
      self.parts = max(self.parts, _WHOLE if works else _PARTIAL)
    elif action is Action.DELETE:
      self.parts = min(self.parts, _NONE if works else _PARTIAL)
    if works:
      done = dataclasses.replace(self.state, unfinished=Action.NOTHING)
      self.state = done


@given(_EVENTS)
@settings(max_examples=150)
def test_no_walk_runs_a_clean_end_again_or_crashes_for_ever(events):
  world = _World()
  for event in events:
    world.turn(event)
    stored = json.dumps(dataclasses.asdict(world.state))
    assert watch.parse(stored) == world.state


@given(_EVENTS)
@settings(max_examples=150)
def test_every_state_has_a_way_to_the_end_that_leaks_nothing(events):
  world = _World()
  for event in events:
    world.turn(event)
  # From here on nothing goes wrong.
  for _ in range(12):
    codes = (None, None) if world.state.active_since is None else (0, 0)
    world.turn(_Event(Standing.ACTIVE, codes, elapsed=1000.0))
  assert world.state.phase in ENDS
  if world.state.phase is not Phase.STOPPED:
    assert world.parts == _NONE


@given(
  st.lists(
    st.tuples(st.sampled_from([1, 81, 82, 139]), st.booleans(), st.booleans()),
    min_size=3 * (POLICY.retries + 2),
  )
)
@settings(max_examples=50)
def test_no_crash_loop_is_endless(crashes):
  world = _World()
  for code, steps, started in crashes:
    world.turn(
      _Event(
        Standing.ACTIVE,
        (code, code),
        started=started,
        steps=steps,
        elapsed=1000.0,
      )
    )
  assert world.state.phase is Phase.FAILED
