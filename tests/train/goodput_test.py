"""Time counts from the first start on; steps count if they were kept."""

import json
import types

from etils import epath
import pytest

from drope_jax.analysis import records
from drope_jax.train import goodput, heartbeat
from drope_jax.train.goodput import Goodput


@pytest.fixture
def clock(monkeypatch):
  """Of seconds since 1970; of another origin in each process."""
  clock = types.SimpleNamespace(now=1_000.0, origin=0.0)
  monkeypatch.setattr(
    goodput,
    "time",
    types.SimpleNamespace(
      time=lambda: clock.now, monotonic=lambda: clock.now - clock.origin
    ),
  )
  return clock


def _write(run, lines):
  with (run / records.METRICS).open("a") as file:
    for line in lines:
      file.write(json.dumps(line) + "\n")


def _start(clock, run, saved_step, beat=None):
  clock.origin = clock.now
  counted = Goodput(run, saved_step)
  if beat is not None:
    (run / heartbeat.FOLDER).mkdir(exist_ok=True)
    heartbeat.write(epath.Path(run), beat(counted.begun))
  return counted


def _beat(begun):
  return heartbeat.Heartbeat(
    *(0, 1, "w-0", 7, begun, 0.0, 0.0, heartbeat.Doing.ENDED),
    *("pretrain", 1, 0.0, 9),
  )


def test_steps_that_were_lost_and_time_between_starts_count_against_it(
  clock, tmp_path
):
  first = _start(clock, tmp_path, 0, _beat)
  for step in (1, 2, 3):
    clock.now += 10
    _write(tmp_path, [{"step": step} | first.line(8.0)])
  clock.now += 70  # It was killed: step 3 was not saved.
  second = _start(clock, tmp_path, 2, _beat)
  assert second.begun == 1_000
  clock.now += 10
  assert second.line(9.0) == {
    "elapsed_s": 30.0 + 70 + 10,
    "kept_s": 8.0 + 8 + 9,
    "goodput": 25 / 110,
  }


def test_where_the_heartbeats_are_lost_its_last_line_counts(clock, tmp_path):
  first = _start(clock, tmp_path, 0)
  clock.now += 10
  _write(tmp_path, [{"step": 1} | first.line(8.0)])
  clock.now += 70
  second = _start(clock, tmp_path, 1)
  clock.now += 10
  assert second.line(8.0)["goodput"] == 16 / 20


def test_a_start_that_logged_nothing_counts_against_it(clock, tmp_path):
  _start(clock, tmp_path, 0, _beat)
  clock.now += 100
  second = _start(clock, tmp_path, 0, _beat)
  clock.now += 100
  assert second.line(50.0)["goodput"] == 0.25


def test_of_an_older_run_they_count_from_here(clock, tmp_path):
  _write(tmp_path, [{"step": 1}, {"step": 2}])
  counted = _start(clock, tmp_path, 2)
  clock.now += 10
  assert counted.line(5.0)["goodput"] == 0.5
