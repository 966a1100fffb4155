"""The agent trains each attempt once, and ends a training that has to end."""

import http.client
import json
import threading
import time

import pytest

from drope_jax.exits import Exit
from launch.hosts import agent, bootstrap, place, training

ORDER = {
  "id": "r",
  "attempt": 1,
  "recipe": "recipes/tiny.gin",
  "files": [],
  "arguments": ["--out", "gs://b/runs/tiny"],
  "project": "p",
  "slices": 1,
  "hosts_of_slice": 1,
  "wheel_sha256": "w",
  "token": "t",
  "stop": False,
  "report_every_s": 0.02,
}


class Training:
  """One that ends by itself, or when it is told to.

  Attributes:
    started: the arguments of all.
    ends: whether it ends by itself.
  """

  started: list[list[str]] = []
  ends = True

  def __init__(self, arguments, variables, folder, log):
    self.started.append(list(arguments))
    log.write_text("a line\n")
    self._saving: int | None = None

  def poll(self):
    if self.ends:
      return 0
    if self._saving is None:
      return None
    self._saving -= 1
    return None if self._saving else int(Exit.TERMINATED)

  def end(self):
    assert self._saving is None, "it was told twice"
    self._saving = 10

  def last_line(self):
    return "a line"


class Host:
  """A host of the run, with the bucket that its agent uses."""

  def __init__(self):
    self.objects: dict[str, bytes] = {}
    self.order(**ORDER)

  def order(self, **changes) -> None:
    found = json.loads(self.objects.get("gs://b/x/run.json", b"{}"))
    self.objects["gs://b/x/run.json"] = json.dumps(found | changes).encode()

  def start(self) -> None:
    self.agent = agent.Agent("gs://b/x", "w")
    self._thread = threading.Thread(target=self.agent.run, daemon=True)
    self._thread.start()

  def end(self) -> None:
    self.agent.terminate()
    self._thread.join(30)
    assert not self._thread.is_alive()

  def record(self, attempt: int, run: str) -> dict:
    where = f"gs://b/x/hosts/{run}/{attempt}/0-0.json"
    return json.loads(self.objects.get(where, b"{}"))

  def await_state(self, attempt: int, state: str, run: str = "r") -> dict:
    deadline = time.monotonic() + 30
    while self.record(attempt, run).get("state") != state:
      assert time.monotonic() < deadline, self.objects
      time.sleep(0.01)
    return self.record(attempt, run)


@pytest.fixture
def host(monkeypatch, tmp_path):
  """A host of one slice; its agent has not started yet."""
  host = Host()
  monkeypatch.setenv("DROPE_ROOT", str(tmp_path))
  monkeypatch.setattr(bootstrap, "get", host.objects.get)
  monkeypatch.setattr(bootstrap, "put", host.objects.__setitem__)
  monkeypatch.setattr(bootstrap, "metadata", lambda path: None)
  monkeypatch.setattr(agent.cloud_log, "send", lambda *args: None)
  where = place.Place(0, 0, "vm", "10.0.0.1")
  monkeypatch.setattr(place, "find", lambda slices, hosts: where)
  monkeypatch.setattr(agent, "_TICK_S", 0.01)
  monkeypatch.setattr(training, "Training", Training)
  monkeypatch.setattr(Training, "started", [])
  return host


def test_it_waits_for_the_next_order_after_a_clean_end(host):
  host.start()
  assert host.await_state(1, "exited")["code"] == 0
  time.sleep(0.1)
  assert len(Training.started) == 1, "a clean end was run again"
  host.order(attempt=2)
  assert host.await_state(2, "exited")["said"] == "a line"
  host.end()
  assert Training.started == [["recipes/tiny.gin", *ORDER["arguments"]]] * 2


def test_what_it_began_before_a_crash_it_does_not_begin_again(host):
  record = {"state": "running", "code": None, "host": "vm"}
  host.objects["gs://b/x/hosts/r/1/0-0.json"] = json.dumps(record).encode()
  host.start()
  assert host.await_state(1, "exited")["code"] == Exit.BUG
  host.end()
  assert Training.started == []


def test_of_a_run_that_was_deleted_nothing_decides_about_the_next(
  host, monkeypatch
):
  monkeypatch.setattr(Training, "ends", False)
  host.start()
  host.await_state(1, "running")
  host.order(id="s")  # The machines of the first run are not gone yet.
  assert host.await_state(1, "exited")["notice"] == "attempt"
  host.end()
  assert host.record(1, "s") == {}, "a machine of the first run joined"
  monkeypatch.setattr(Training, "ends", True)
  host.start()
  assert host.await_state(1, "exited", "s")["code"] == 0
  host.end()
  assert len(Training.started) == 2


def test_an_agent_that_cannot_begin_says_why(host, monkeypatch):
  def fail(slices, hosts):
    raise ValueError("no worker number")

  monkeypatch.setattr(place, "find", fail)
  with pytest.raises(ValueError, match="no worker"):
    agent.Agent("gs://b/x", "w").run()
  (record,) = (
    json.loads(content)
    for name, content in host.objects.items()
    if name.startswith("gs://b/x/hosts/r/1/startup-")
  )
  assert (record["state"], record["said"]) == ("failed", "no worker number")


def test_a_host_that_waits_for_the_first_one_reports(host, monkeypatch):
  where = place.Place(0, 1, "vm", "10.0.0.2")
  monkeypatch.setattr(place, "find", lambda slices, hosts: where)
  monkeypatch.setattr(agent, "_ASK_S", 0.01)
  host.start()
  own = "gs://b/x/hosts/r/1/0-1.json"
  reports = set()
  deadline = time.monotonic() + 30
  while len(reports) < 3 and time.monotonic() < deadline:
    found = json.loads(host.objects.get(own, b"{}"))
    reports.add((found.get("state"), found.get("updated")))
    time.sleep(0.01)
  host.end()
  assert Training.started == []
  states = {state for state, _ in reports} - {None}
  assert states == {"running"} and len(reports) == 3


def test_a_bucket_that_does_not_answer_once_costs_nothing(host, monkeypatch):
  own, asked = "gs://b/x/hosts/r/1/0-0.json", []

  def get(url):
    asked.append(url)
    if asked.count(own) == 2:  # When it looks for the first host's address.
      asked.append(own)
      raise OSError("no answer")
    return host.objects.get(url)

  monkeypatch.setattr(bootstrap, "get", get)
  monkeypatch.setattr(agent, "_ASK_S", 0.01)
  host.start()
  assert host.await_state(1, "exited")["code"] == 0
  host.end()
  assert len(Training.started) == 1 and asked.count(own) > 2


def test_an_answer_that_is_cut_off_costs_no_training(host, monkeypatch):
  monkeypatch.setattr(Training, "ends", False)
  monkeypatch.setattr(agent, "_ASK_S", 0.01)
  cut = {"running": 3, "exited": 3}

  def put(url, content):
    state = json.loads(content)["state"] if "/hosts/" in url else None
    began = "gs://b/x/hosts/r/1/0-0.json" in host.objects
    if began and cut.get(state):
      cut[state] -= 1
      raise http.client.IncompleteRead(b"")
    host.objects[url] = content

  monkeypatch.setattr(bootstrap, "put", put)
  host.start()
  deadline = time.monotonic() + 30
  while cut["running"]:
    assert time.monotonic() < deadline, "its reports have ended"
    time.sleep(0.01)
  host.order(stop=True)
  assert host.await_state(1, "exited")["code"] == Exit.TERMINATED
  host.end()
  assert not any(cut.values()) and len(Training.started) == 1


def test_a_recipe_of_several_files_is_read_from_the_bucket(host, tmp_path):
  files = {"mine.gin": b"include 'shape.gin'", "shape.gin": b"# A shape."}
  host.order(files=[*files], recipe="mine.gin")
  for name, content in files.items():
    host.objects[f"gs://b/x/recipe/{name}"] = content
  host.start()
  assert host.await_state(1, "exited")["code"] == 0
  host.end()
  ((recipe, *_),) = Training.started
  folder = tmp_path / "recipe-1"
  assert recipe == str(folder / "mine.gin")
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_recipe_that_the_bucket_lacks_is_a_mistake(host):
  host.order(files=["mine.gin", "shape.gin"], recipe="mine.gin")
  host.objects["gs://b/x/recipe/mine.gin"] = b"include 'shape.gin'"
  host.start()
  found = host.await_state(1, "exited")
  host.end()
  assert found["code"] == Exit.MISTAKE
  assert "gs://b/x/recipe/shape.gin" in found["said"]
  assert Training.started == []


def test_stopped_before_its_training_it_begins_none(host):
  host.order(stop=True)
  host.start()
  found = host.await_state(1, "exited")
  assert (found["code"], found["notice"]) == (Exit.TERMINATED, "stop")
  host.end()
  assert Training.started == []


@pytest.mark.parametrize(
  ("changes", "notice"),
  [({"stop": True}, "stop"), ({"attempt": 2}, "attempt"), ({}, "shutdown")],
)
def test_a_training_is_told_to_end_once_and_why(
  host, monkeypatch, changes, notice
):
  monkeypatch.setattr(Training, "ends", False)
  if notice == "shutdown":  # It comes at once, whenever the next report is due.
    host.order(report_every_s=1000.0)
  host.start()
  host.await_state(1, "running")
  if changes:
    host.order(**changes)
  else:
    host.agent.terminate()
  found = host.await_state(1, "exited")
  host.end()
  assert (found["code"], found["notice"]) == (Exit.TERMINATED, notice)
