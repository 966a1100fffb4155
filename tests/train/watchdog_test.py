"""It tells of what stands still, and of nothing else; it disturbs nothing."""

import socket
import threading
import time
import types

from etils import epath
import pytest

from drope_jax.checkpoint import store
from drope_jax.data import paths
from drope_jax.train import heartbeat, watchdog
from drope_jax.train.heartbeat import Doing


@pytest.fixture
def watching(tmp_path):
  """Makes a watchdog of `tmp_path`, and the list of what it tells."""

  def watching(stall_s=None, saved_step=0):
    told = []
    recipe = types.SimpleNamespace(
      end_steps=lambda: (4, 9), stall_minutes=stall_s and stall_s / 60
    )
    return told, watchdog.Watchdog(
      epath.Path(tmp_path),
      recipe,
      100.0,
      saved_step,
      lambda *words: told.append(words),
    )

  return watching


def _await(condition):
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _only(run) -> heartbeat.Heartbeat:
  (beat,) = heartbeat.read(run)
  return beat


def test_who_stands_still_is_named_and_then_ends(watching):
  told, dog = watching(stall_s=0.2)
  with dog:
    dog.prepare("pretrain")
    dog.step(1, compiles=True)
    for round in (1, 2):
      dog.step(round + 1, compiles=False)
      with dog.doing(Doing.READING):
        _await(lambda: len(told) >= 2)
        time.sleep(0.2)
      assert [too_long for _, too_long in told] == [False, True]
      assert (
        f"on {socket.gethostname()} waits for data after step {round + 1}"
        in (told[0][0])
      )
      told.clear()


def test_while_it_steps_it_is_left_alone(watching):
  told, dog = watching(stall_s=0.4)
  with dog:
    dog.prepare("pretrain")
    for step in range(1, 80):
      dog.step(step, compiles=step == 1)
      time.sleep(0.01)
  assert told == []


@pytest.mark.parametrize(
  ("doing", "named_s", "ends_s"),
  [
    (Doing.STEPPING, 30, 600),
    (Doing.READING, 30, 600),
    (Doing.SAVING, 1800, 3600),
    (Doing.PREPARING, 1800, 3600),
  ],
)
def test_what_is_no_step_may_take_longer(watching, doing, named_s, ends_s):
  _, dog = watching(stall_s=600)
  dog.move(doing)
  assert dog._limits() == (named_s, ends_s)


def test_slow_steps_may_take_longer(watching, monkeypatch):
  clock = types.SimpleNamespace(now=0.0)
  monkeypatch.setattr(
    watchdog,
    "time",
    types.SimpleNamespace(time=lambda: clock.now, monotonic=time.monotonic),
  )
  _, dog = watching(stall_s=600)
  for step in range(1, 6):
    dog.step(step, compiles=step == 1)
    clock.now += 20 if step > 1 else 3000  # The first compiles.
  assert dog._limits() == (60, 600)
  clock.now += 80
  for step in range(6, 50):
    dog.step(step, compiles=False)
    clock.now += 100
  assert dog._limits() == (300, 1000)


def test_without_a_limit_it_never_tells(watching):
  _, dog = watching()
  dog.move(Doing.READING)
  assert dog._limits()[1] == float("inf")


def test_it_beats_from_start_to_end(watching, tmp_path, monkeypatch):
  finished = set()
  monkeypatch.setattr(store, "is_finished", lambda path: path.name in finished)
  _, dog = watching(saved_step=3)
  with dog:
    _await(lambda: heartbeat.read(tmp_path))
    beat = _only(tmp_path)
    assert (beat.process, beat.processes, beat.begun) == (0, 1, 100.0)
    assert (beat.doing, beat.phase, beat.step) == (Doing.PREPARING, None, None)
    assert (beat.saved_step, beat.saved, beat.last_step) == (3, None, 9)
    dog.prepare("pretrain")
    dog.step(4, compiles=True)
    dog.saving(4)
    dog._beat()
    assert _only(tmp_path).saved_step == 3  # It is not whole yet.
    finished.add("4")
  beat = _only(tmp_path)
  assert (beat.doing, beat.ended) == (Doing.ENDED, "finished")
  assert (beat.phase, beat.step, beat.saved_step) == ("pretrain", 4, 4)
  assert beat.started <= beat.stepped <= beat.saved <= beat.time


def test_it_says_why_a_run_ended(watching, tmp_path):
  _, dog = watching()
  with pytest.raises(ValueError), dog:
    raise ValueError("No\nroom.")
  assert _only(tmp_path).ended == "No room."


def test_what_it_cannot_write_costs_nothing(watching, tmp_path):
  (tmp_path / heartbeat.FOLDER).write_text("a file")
  told, dog = watching(stall_s=0.2)
  with dog:
    dog.move(Doing.READING)
    _await(lambda: len(told) == 2)
  assert "waits for data" in told[1][0]


def test_a_bucket_takes_no_two_beats_a_second(watching, monkeypatch):
  written = []
  monkeypatch.setattr(paths, "in_bucket", lambda path: True)
  monkeypatch.setattr(
    heartbeat, "write", lambda *_: written.append(time.monotonic())
  )
  told, dog = watching(stall_s=0.2)
  with dog:
    dog.move(Doing.READING)
    _await(lambda: len(told) == 2)
  assert len(written) >= 3
  gaps = [b - a for a, b in zip(written, written[1:], strict=False)]
  assert min(gaps) > 0.99


def test_a_bucket_that_does_not_answer_holds_up_nothing(watching, monkeypatch):
  monkeypatch.setattr(watchdog, "_ANSWER_S", 0.1)
  forever, hung = threading.Event(), []

  def hang(*_):
    hung.append(1)
    forever.wait()

  monkeypatch.setattr(heartbeat, "write", hang)
  monkeypatch.setattr(heartbeat, "read", hang)
  told, dog = watching(stall_s=0.2)
  with dog:
    dog.move(Doing.READING)
    _await(lambda: len(told) == 2)
  forever.set()
  assert len(hung) == 3
  assert "waits for data" in told[1][0]


def test_who_hears_of_no_other_says_so(watching, monkeypatch):
  monkeypatch.setattr(watchdog.jax, "process_count", lambda: 4)
  told, dog = watching(stall_s=0.2)
  with dog:
    dog.move(Doing.READING)
    _await(lambda: len(told) == 2)
  assert told[1][0].endswith("after step 0; nothing is heard of the others")
