"""`watch` acts, remembers, and goes on after it was ended anywhere."""

import dataclasses
import fnmatch
import json
import pathlib

import pytest

from launch import commands, order, slice, states, status, watch
from launch.commands import Failed
from launch.states import Phase

RENTED = slice.Slice(
  name="mine",
  slice="v4-16",
  way="queued",
  capacity="spot",
  zone="us-central2-b",
  project="p",
  bucket="gs://b",
  service_account="s",
)
POLICY = states.Policy(hosts=2, retries=2, settle_s=10)
ORDER = order.Order(
  id="r",
  attempt=1,
  recipe="recipes/tiny.gin",
  files=[],
  arguments=[],
  out="gs://b/runs/tiny",
  rented=RENTED,
  project="p",
  slices=1,
  hosts_of_slice=2,
  wheel="w.whl",
  wheel_sha256="0",
  extras="tpu",
  token="t",
)
_NO_OBJECTS = {
  "cat": "The following URLs matched no objects or files:\n{}",
  "cp": "The following URLs matched no objects or files:\n{}",
  "objects": "{} not found: 404.",
}


class World:
  """A bucket and a queued resource in memory, which obey commands.

  Attributes:
    scripts: for each creation the states that the resource goes through; once
      "ACTIVE", hosts end with the codes that follow it.
    refusals: what the next commands with a word say in the place of working.
  """

  def __init__(self, *scripts, refusals=()):
    self.scripts = [list(script) for script in scripts]
    self.refusals = list(refusals)
    self.objects: dict[str, tuple[int, str]] = {}
    self.state = None
    self.coming: list = []
    self.codes = None
    self.guest: list[dict] = []
    self.created, self.now, self.count = 0, 0.0, 0
    self.die_at: int | None = None
    self.write(order.url(RENTED), json.dumps(dataclasses.asdict(ORDER)))

  def write(self, url: str, text: str) -> None:
    self.count += 1
    self.objects[url] = (self.count, text)

  def sleep(self, seconds: float) -> None:
    self.now += seconds

  def __call__(self, command: commands.Command) -> str:
    if self.die_at is not None:
      self.die_at -= 1
      if self.die_at < 0:
        raise KeyboardInterrupt
    words = command.args
    for refusal in self.refusals:
      if refusal[0] in words:
        self.refusals.remove(refusal)
        failed = Failed(command, refusal[1])
        if failed.kind in command.settled_by:
          return ""
        raise failed
    if words[1] == "storage":
      return self._storage(command)
    if "get-guest-attributes" in words:
      return json.dumps(self.guest)
    return getattr(self, f"_{words[4]}")(command)

  def _storage(self, command) -> str:
    words = command.args
    (url,) = (word for word in words if word.startswith("gs://"))
    found = {k: v for k, v in self.objects.items() if fnmatch.fnmatch(k, url)}
    if words[2] == "cp" and words[-1] == url:
      for word in words:
        if word.startswith("--if-generation-match="):
          current = self.objects.get(url, (0, ""))[0]
          if str(current) != word.partition("=")[2]:
            raise Failed(command, "HTTPError 412: conditionNotMet")
      self.write(url, command.stdin)
      return ""
    if not found:
      raise Failed(command, _NO_OBJECTS[words[2]].format(url))
    generation, text = next(iter(found.values()))
    if words[2] == "objects":
      return json.dumps({"generation": generation})
    if words[2] == "cp":
      for name, (_, content) in found.items():
        pathlib.Path(words[-1], name.rpartition("/")[2]).write_text(content)
      return ""
    return text

  def _create(self, command) -> str:
    if self.state is None:
      self.created += 1
      self.coming = self.scripts.pop(0)
      self.state = "CREATING"
    return ""

  def _delete(self, command) -> str:
    self.state = None
    return ""

  def _describe(self, command) -> str:
    if self.state is None:
      raise Failed(command, "NOT_FOUND")
    if self.coming:
      now = self.coming.pop(0)
      if isinstance(now, str):
        self.state = now
      else:
        self._end(now)
    return json.dumps({"state": {"state": self.state}})

  def _end(self, codes) -> None:
    self.codes = codes
    text = self.objects[order.url(RENTED)][1]
    attempt = json.loads(text)["attempt"]
    for worker, code in enumerate(codes):
      record = {
        "slice": 0,
        "worker": worker,
        "host": f"h{worker}",
        "state": "running" if code is None else "exited",
        "code": code,
        "said": "last words",
        "updated": self.now,
        "notice": None,
      }
      where = f"{RENTED.folder}/hosts/r/{attempt}/0-{worker}.json"
      self.write(where, json.dumps(record) + "\n")

  def watch(self) -> states.State:
    return watch.watch(
      RENTED,
      POLICY,
      self,
      look_every_s=30,
      clock=lambda: self.now,
      sleep=self.sleep,
    )


RUN = (None, None)
DONE = (0, 0)


def test_it_goes_from_waiting_to_finished_and_frees_the_chips(capsys):
  world = World(
    ["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "ACTIVE", RUN, DONE]
  )
  state = world.watch()
  assert (state.phase, state.attempt) == (Phase.FINISHED, 1)
  assert (world.created, world.state) == (1, None)
  said = capsys.readouterr().out
  for word in ("waiting for", "running for", "finished for"):
    assert word in said


def test_preempted_it_creates_anew_and_orders_a_new_attempt():
  world = World(
    ["ACTIVE", RUN, "SUSPENDING", "SUSPENDED"], ["ACTIVE", RUN, DONE]
  )
  state = world.watch()
  assert (state.phase, state.attempt) == (Phase.FINISHED, 2)
  assert (state.preemptions, world.created) == (1, 2)


def test_a_crash_is_tried_again_on_the_same_machines():
  world = World(["ACTIVE", RUN, (1, 81), RUN, RUN, RUN, RUN, RUN, RUN, DONE])
  state = world.watch()
  assert state.phase is Phase.FINISHED
  assert (state.attempt, state.crashes, world.created) == (2, 1, 1)


def test_a_delete_that_fails_once_is_done_again(capsys):
  refusals = [("delete", "INTERNAL: try later")]
  world = World(["ACTIVE", RUN, DONE], refusals=refusals)
  assert world.watch().phase is Phase.FINISHED
  assert world.state is None and not world.refusals
  assert "delete will be tried again" in capsys.readouterr().err


def test_a_look_that_fails_is_taken_again(capsys):
  refusals = [("mine", "INTERNAL: a hiccup"), ("cp", "HTTPError 503: x")]
  world = World(["ACTIVE", RUN, DONE], refusals=refusals)
  assert world.watch().phase is Phase.FINISHED
  assert not world.refusals
  assert capsys.readouterr().err.count("looks again in 30 s") == 2


@pytest.mark.parametrize("word", ["cp", "objects"])
def test_a_state_whose_writing_seemed_to_fail_is_its_own(word):
  """The command writes, and its answer or that of the next one is lost."""
  world = World(["WAITING_FOR_RESOURCES", "ACTIVE", RUN, DONE])
  failures = []

  def do(command):
    said = world(command)
    mine = any("watch.json" in part for part in command.args)
    if mine and word in command.args and world.now and not failures:
      failures.append(command)
      raise Failed(command, "HTTPError 503: try later")
    return said

  state = watch.watch(
    RENTED,
    POLICY,
    do,
    look_every_s=30,
    clock=lambda: world.now,
    sleep=world.sleep,
  )
  assert failures and state.phase is Phase.FINISHED


def test_a_creation_that_is_refused_is_understood():
  world = World(["ACTIVE"], refusals=[("create", "Quota 'TPUS' exceeded")])
  state = world.watch()
  assert state.phase is Phase.FAILED and "quota" in state.reason
  refusals = [("create", "ZONE_RESOURCE_POOL_EXHAUSTED")] * 2
  world = World(["ACTIVE", RUN, DONE], refusals=refusals)
  state = world.watch()
  assert state.phase is Phase.FINISHED and state.crashes == 0


@pytest.mark.parametrize(
  ("said", "told"),
  [
    ("PERMISSION_DENIED: no", "Grant the roles"),
    ("INVALID_ARGUMENT: no such zone", "Correct the description"),
    ("NOT_FOUND: reservation my-reservation", "my-reservation"),
  ],
)
def test_what_only_the_user_can_mend_is_told_at_once(said, told):
  world = World(["ACTIVE"], refusals=[("create", said)])
  with pytest.raises(ValueError, match=told):
    world.watch()


def test_deleted_by_its_user_it_is_gone_and_not_created_anew(capsys):
  world = World(["ACTIVE", RUN, (1, 81)])

  def delete(seconds):
    world.now += seconds
    if world.coming == []:
      world.objects.clear()
      world.state = None

  world.sleep = delete
  assert world.watch().phase is Phase.GONE
  assert (world.created, world.state) == (1, None)
  assert "`delete` removed it" in capsys.readouterr().out


def test_a_stop_between_two_attempts_is_not_forgotten():
  world = World(["ACTIVE", RUN, (1, 81), (1, 81)])
  waited = world.sleep

  def stop(seconds):
    waited(seconds)
    if world.codes == (1, 81):
      given = dataclasses.replace(ORDER, stop=True)
      world.write(order.url(RENTED), json.dumps(dataclasses.asdict(given)))

  world.sleep = stop
  state = world.watch()
  assert (state.phase, state.attempt) == (Phase.STOPPED, 1)


def test_a_stop_while_an_attempt_is_ordered_is_not_lost():
  world = World([])
  stopped = json.dumps(dataclasses.asdict(ORDER) | {"stop": True})

  def do(command):
    said = world(command)
    if command.args[2] == "cat":
      world.write(order.url(RENTED), stopped)
    return said

  second = watch.begin(2, 0.0)
  with pytest.raises(Failed, match="412"):
    watch.perform(states.Action.RESTART, RENTED, second, do)
  assert world.objects[order.url(RENTED)][1] == stopped


def test_a_host_that_never_began_is_asked_why(capsys):
  record = {
    "host": "h1",
    "state": "failed",
    "said": "HTTP Error 403",
    "updated": 0.0,
  }
  world = World(["ACTIVE", RUN[:1], *[RUN[:1]] * 12])
  world.guest = [{"value": json.dumps(record)}]
  for _ in range(2):
    world.scripts.append(["ACTIVE", *[RUN[:1]] * 12])
  state = world.watch()
  assert state.phase is Phase.FAILED
  assert "host (h1): HTTP Error 403" in state.reason


def test_a_host_that_began_after_a_failed_start_has_not_failed():
  world = World()
  failed = {"host": "h0", "state": "failed", "said": "no disk", "updated": 0.0}
  began = failed | {"state": "running", "slice": 0, "worker": 0, "code": None}
  folder = f"{RENTED.folder}/hosts/r/1"
  world.write(f"{folder}/startup-h0.json", json.dumps(failed) + "\n")
  (host,) = watch.look(RENTED, ORDER, watch.begin(1, 0.0), world, 0.0).hosts
  assert not host.started
  world.write(f"{folder}/0-0.json", json.dumps(began) + "\n")
  (host,) = watch.look(RENTED, ORDER, watch.begin(1, 0.0), world, 0.0).hosts
  assert host.started and host.code is None


def test_hosts_of_a_run_that_was_deleted_are_not_seen():
  world = World(["ACTIVE", "ACTIVE", "ACTIVE", RUN, DONE])
  record = {"slice": 0, "worker": 0, "host": "h0", "state": "exited"}
  record |= {"code": 143, "said": "", "updated": 0.0, "notice": "stop"}
  for folder in ("old/1", "1"):
    where = f"{RENTED.folder}/hosts/{folder}/0-0.json"
    world.write(where, json.dumps(record) + "\n")
  assert world.watch().phase is Phase.FINISHED


def test_ended_at_any_command_it_goes_on_and_ends_the_same():
  def world():
    return World(
      ["WAITING_FOR_RESOURCES", "ACTIVE", RUN, "SUSPENDED"],
      ["ACTIVE", RUN, DONE],
    )

  whole = world()
  whole.die_at = 1_000
  whole.watch()
  commands_needed = 1_000 - whole.die_at
  assert commands_needed > 20
  for die_at in range(commands_needed):
    cut = world()
    cut.die_at = die_at
    with pytest.raises(KeyboardInterrupt):
      cut.watch()
    cut.die_at = None
    state = cut.watch()
    assert (state.phase, cut.state) == (Phase.FINISHED, None)
    assert cut.created == 2, f"after command {die_at}"


def test_two_watches_are_one_too_many():
  world = World(["WAITING_FOR_RESOURCES"] * 9 + ["ACTIVE"])
  sleep, looks = world.sleep, []

  def meddle(seconds):
    looks.append(seconds)
    if len(looks) == 2:
      other = watch.begin(1, 5.0)
      text = json.dumps(dataclasses.asdict(other))
      world.write(f"{RENTED.folder}/watch.json", text)
    sleep(seconds)

  world.sleep = meddle
  with pytest.raises(ValueError, match="One `watch` may look after a run"):
    world.watch()


def test_without_an_order_there_is_nothing_to_watch():
  world = World([])
  world.objects.clear()
  with pytest.raises(ValueError, match="Give one with `run RECIPE.gin`"):
    world.watch()


def test_status_says_how_far_it_is_and_what_it_costs():
  world = World(["ACTIVE", RUN, RUN, RUN])
  with pytest.raises(KeyboardInterrupt):
    world.die_at = 40
    world.watch()
  world.die_at = None
  beat = {
    "process": 0,
    "processes": 2,
    "host": "h0",
    "pid": 1,
    "begun": 0.0,
    "started": 0.0,
    "time": world.now,
    "doing": "stepping",
    "phase": "recalibrate",
    "step": 150,
    "stepped": 1100.0,
    "last_step": 350,
    "saved_step": 100,
    "saved": 100.0,
    "ended": None,
  }
  world.write(f"{ORDER.out}/heartbeats/0.json", json.dumps(beat))
  line = {
    "step": 150,
    "loss": 2.5,
    "tokens_per_s_per_chip": 9400.0,
    "mfu_causal": 0.47,
    "goodput": 0.9,
  }
  world.write(f"{ORDER.out}/metrics.jsonl", 'tail"}\n' + json.dumps(line))
  said = status.report(RENTED, world, 1200.0)
  for words in (
    "150 of 350, stepping (recalibrate)",
    "step 100, 18 min ago",
    "loss           2.500",
    "9,400",
    "47.0%",
    "90.0%",
    "preemptions    0",
    "crashes        0",
    "chip-hours",
    "1 h 6 min",  # 50 steps took 1,000 s, and 200 are left.
  ):
    assert words in said, said
