import numpy as np
import pytest

from drope_jax.train import cadence


@pytest.fixture
def clock(monkeypatch):
  """Seconds, which the test lets pass."""
  clock = {"s": 1000.0}
  monkeypatch.setattr(cadence.time, "monotonic", lambda: clock["s"])
  return clock


def test_saves_come_by_steps_and_where_these_are_rare_by_time(clock):
  saves = cadence.Cadence(every_steps=100, every_minutes=10)
  due = []
  for step in range(1, 301):
    clock["s"] += 10
    if saves.due(step, logs=step % 7 == 0):
      due.append(step)
      saves.restart()
  # Sixty steps take ten minutes; the seventh step after that has a line.
  assert due == [63, 100, 161, 200, 266, 300]


def test_the_clock_is_asked_at_lines_alone(clock):
  saves = cadence.Cadence(every_steps=100, every_minutes=10)
  clock["s"] += 601
  assert not saves.due(1, logs=False)
  assert saves.due(1, logs=True)


def test_without_minutes_steps_alone_count(clock):
  saves = cadence.Cadence(every_steps=100, every_minutes=None)
  clock["s"] += 10**6
  assert not saves.due(1, logs=True)
  assert saves.due(100, logs=False)


@pytest.mark.parametrize("first", [False, True])
def test_the_first_processes_clock_decides(clock, monkeypatch, first):
  monkeypatch.setattr(
    cadence.multihost_utils,
    "broadcast_one_to_all",
    lambda own: np.array(first),
  )
  saves = cadence.Cadence(every_steps=100, every_minutes=10)
  assert saves.due(1, logs=True) == first
  clock["s"] += 601
  assert saves.due(1, logs=True) == first
