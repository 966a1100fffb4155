"""metrics.jsonl: no step is lost or logged twice."""

import json

import jax
import pytest

from drope_jax.train import metrics


def _log(folder, resume_step, steps):
  with metrics.MetricsLog(folder, resume_step) as log:
    for step in steps:
      log.write({"step": step, "loss": step / 8})


def test_a_resumed_run_writes_its_later_lines_again(tmp_path):
  _log(tmp_path, 0, [2, 4, 6, 8])
  _log(tmp_path, 4, [6, 8, 10])
  lines = metrics.read(tmp_path)
  assert lines == [{"step": s, "loss": s / 8} for s in (2, 4, 6, 8, 10)]


def test_a_run_from_the_start_keeps_nothing(tmp_path):
  _log(tmp_path, 0, [2, 4])
  _log(tmp_path, 0, [2])
  assert [line["step"] for line in metrics.read(tmp_path)] == [2]


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path):
  _log(tmp_path, 0, [2, 4])
  whole = json.dumps({"step": 6, "loss": 0.75})
  file = tmp_path / metrics.FILENAME
  for cut in (1, len(whole) // 2, len(whole) - 1):
    file.write_text(file.read_text() + whole[:cut])
    _log(tmp_path, 9, [10])
    lines = metrics.read(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 10]
    _log(tmp_path, 9, [])


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path):
  with metrics.MetricsLog(tmp_path, 0) as log:
    log.write({"step": 1})
    assert metrics.read(tmp_path) == [{"step": 1}]


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
  with metrics.MetricsLog(tmp_path, 0) as log:
    log.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
  assert metrics.read(tmp_path) == [
    {"step": 1, "loss": None, "grad_norm": None}
  ]


def test_of_several_processes_the_first_alone_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  _log(tmp_path, 0, [2, 4])
  assert not list(tmp_path.iterdir())


def test_a_crash_while_resuming_loses_no_line(tmp_path, monkeypatch):
  _log(tmp_path, 0, [2, 4])

  def full_disk(self, text):
    (tmp_path / self.name).open("w").close()
    raise OSError("No space left on device")

  monkeypatch.setattr(
    type(metrics.epath.Path(tmp_path)), "write_text", full_disk
  )
  with pytest.raises(OSError, match="No space"):
    metrics.MetricsLog(tmp_path, 2)
  assert [line["step"] for line in metrics.read(tmp_path)] == [2, 4]
