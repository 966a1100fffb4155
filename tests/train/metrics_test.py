"""metrics.jsonl: nothing that was logged is lost, and no step counts twice."""

import json
import os

from etils import epath
import jax
import pytest

from drope_jax.analysis import records
from drope_jax.train import metrics


def _log(folder, steps):
  with metrics.MetricsLog(folder) as log:
    for step in steps:
      log.write({"step": step, "loss": step / 8})


def _steps(folder):
  return [line["step"] for line in records.read_metrics(folder)]


def test_a_resumed_run_logs_again_and_what_it_had_logged_stays(tmp_path):
  file = tmp_path / records.METRICS
  _log(tmp_path, [2, 4, 6, 8])
  before = file.read_bytes()
  _log(tmp_path, [5, 10])
  assert records.read_metrics(tmp_path) == [
    {"step": s, "loss": s / 8} for s in (2, 4, 5, 10)
  ]
  assert file.read_bytes().startswith(before)


@pytest.mark.parametrize("rest", [b"", b"\0\0\0"])  # As a power cut leaves.
def test_a_line_cut_short_by_a_crash_spoils_no_other(tmp_path, rest):
  _log(tmp_path, [2, 4])
  whole = json.dumps({"step": 6, "loss": 0.75}).encode()
  file = tmp_path / records.METRICS
  logged = [2, 4]
  for cut in range(1, len(whole)):
    with file.open("ab") as log:
      log.write(whole[:cut] + rest)
    assert _steps(tmp_path) == logged
    logged.append(5 + cut)
    _log(tmp_path, logged[-1:])
    assert _steps(tmp_path) == logged


def test_a_whole_line_without_its_end_counts(tmp_path):
  (tmp_path / records.METRICS).write_text('{"step": 2}')
  _log(tmp_path, [4])
  assert _steps(tmp_path) == [2, 4]


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path):
  with metrics.MetricsLog(tmp_path) as log:
    log.write({"step": 1})
    assert records.read_metrics(tmp_path) == [{"step": 1}]


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
  with metrics.MetricsLog(tmp_path) as log:
    log.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
  assert records.read_metrics(tmp_path) == [
    {"step": 1, "loss": None, "grad_norm": None}
  ]


def test_of_several_processes_the_first_alone_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  _log(tmp_path, [2, 4])
  assert not list(tmp_path.iterdir())


def test_in_a_bucket_lines_are_there_once_flushed(tmp_path, monkeypatch):
  """The object is written anew, seldom, and never without an earlier line."""
  now, written = 1000.0, []
  monkeypatch.setattr(metrics.paths, "in_bucket", lambda path: True)
  monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
  write_text = type(epath.Path(tmp_path)).write_text

  def write(self, text):
    written.append(text.count("\n"))
    return write_text(self, text)

  monkeypatch.setattr(type(epath.Path(tmp_path)), "write_text", write)
  _log(tmp_path, [2, 4])
  assert _steps(tmp_path) == [2, 4]
  written.clear()
  with metrics.MetricsLog(tmp_path) as log:
    for step in (6, 8, 10):
      log.write({"step": step})
    now += 31
    log.write({"step": 12})
    log.write({"step": 14})
    assert written == [3, 6]
    log.flush()
    assert written == [3, 6, 7] and _steps(tmp_path)[-1] == 14
    log.flush()
  assert written == [3, 6, 7]


def test_a_bucket_that_does_not_answer_has_the_lines_later(
  tmp_path, monkeypatch
):
  now = 1000.0
  monkeypatch.setattr(metrics.paths, "in_bucket", lambda path: True)
  monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
  with metrics.MetricsLog(tmp_path) as log:
    with monkeypatch.context() as patch:

      def fail(self, text):
        raise ConnectionResetError(104, "Connection reset by peer")

      patch.setattr(type(epath.Path(tmp_path)), "write_text", fail)
      log.write({"step": 2})
      with pytest.raises(ConnectionResetError):
        log.flush()  # Before a save, the lines must be there.
    log.write({"step": 4})
    assert not list(tmp_path.iterdir())
    now += 31
    log.write({"step": 6})
    assert _steps(tmp_path) == [2, 4, 6]


def test_a_save_waits_for_the_disk_to_have_the_lines(tmp_path, monkeypatch):
  synced = []
  monkeypatch.setattr(os, "fsync", synced.append)
  with metrics.MetricsLog(tmp_path) as log:
    log.flush()
  assert len(synced) == 1
