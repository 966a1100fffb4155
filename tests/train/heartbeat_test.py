"""A heartbeat is read as it was written, of the newest start's processes."""

import dataclasses

from etils import epath
import pytest

from drope_jax.train import heartbeat
from drope_jax.train.heartbeat import Doing, Heartbeat

BEAT = Heartbeat(
  process=0,
  processes=2,
  host="w-0",
  pid=7,
  begun=50.0,
  started=100.0,
  time=115.5,
  doing=Doing.STEPPING,
  phase="recalibrate",
  step=12,
  stepped=115.0,
  last_step=20,
  saved_step=10,
  saved=110.0,
)


@pytest.fixture
def run(tmp_path):
  (tmp_path / heartbeat.FOLDER).mkdir()
  return epath.Path(tmp_path)


def _of(process, **changes):
  return dataclasses.replace(BEAT, process=process, **changes)


def test_processes_are_read_in_order(run):
  assert heartbeat.read(run / "none") == heartbeat.read(run) == []
  beats = [_of(i, processes=11) for i in range(11)]
  for beat in reversed(beats):
    heartbeat.write(run, beat)
  assert heartbeat.read(run) == beats
  (run / heartbeat.FOLDER / "0.json").unlink()
  assert heartbeat.read(run) == []
  assert heartbeat.read(run, 11) == beats[1:]


def test_files_of_a_start_with_more_processes_are_left_out(run):
  for process in range(4):
    heartbeat.write(run, _of(process, processes=4))
  assert len(heartbeat.read(run)) == 4
  now = [_of(process) for process in range(2)]
  heartbeat.write(run, now[0])
  assert heartbeat.read(run) == now[:1]
  heartbeat.write(run, now[1])
  assert heartbeat.read(run) == now


@pytest.mark.parametrize(
  "text", ["{", "[]", '{"process": 0}', '{"doing": "idling"}']
)
def test_a_file_that_is_none_is_named(run, text):
  (run / heartbeat.FOLDER / "0.json").write_text(text)
  with pytest.raises(ValueError, match=r"heartbeats/0\.json"):
    heartbeat.read(run)


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (
      ({}, {"step": 10, "doing": Doing.READING}, {}),
      "process 1 on w-1 waits for data after step 10",
    ),
    (
      ({"step": 10}, {"step": 10, "doing": Doing.SAVING}, {"step": 10}),
      "process 1 on w-1 saves after step 10",
    ),
    (({}, {"step": 11}, {}), "process 1 on w-1 waits for its devices after st"),
    (({}, {}, {}), "all 3 processes wait for their devices in step 12"),
    (({}, {"time": 80.0}, {}), "process 1 on w-1 is silent since step 12"),
    (({}, {"ended": "No room."}, {}), "process 1 on w-1 has ended (No room.)"),
    (({}, {"started": 10.0}, {}), "process 1 has not begun"),
    (({}, {}), "process 2 has not begun"),
  ],
)
def test_who_keeps_the_others_waiting_is_named(changes, told):
  beats = [
    _of(i, processes=3, host=f"w-{i}", **changed)
    for i, changed in enumerate(changes)
  ]
  assert heartbeat.blame(beats).startswith(told)
