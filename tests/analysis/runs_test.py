import json
import math

import pytest

from drope_jax.analysis import damage, runs


def _record(step, phase, tokens, loss, **more):
  record = {"step": step, "phase": phase, "tokens": tokens, "loss": loss}
  return record | more


def _row(**changes):
  row = {
    "task": "multi_key",
    "metric": "accuracy",
    "model": "full",
    "method": "model",
    "factor": 2.0,
    "context_tokens": 64,
    "logit_scale": 1.0,
    "scale_fitted": False,
    "value": 0.5,
    "low": 0.4,
    "high": 0.6,
    "count": 10,
    "seed": 0,
    "mean_tokens": 120.0,
    "outcomes": [1.0, 0.0],
    "series": None,
    "errors": None,
    "truncated": None,
    "parts": None,
    "together": 1,
  }
  return row | changes


def _write_metrics(folder, records):
  lines = "".join(json.dumps(record) + "\n" for record in records)
  (folder / "metrics.jsonl").write_text(lines)


def test_loads_whatever_files_there_are(tmp_path):
  side = damage.Anatomy(1.5, (1.0,), (2.0,), (0.1,), (9.0,), 2.2)
  report = damage.Damage(side, side)
  (tmp_path / "damage.json").write_text(json.dumps(report.to_json()))
  assert runs.load(tmp_path) == runs.Run(tmp_path.name, damage=report)

  (tmp_path / "samples.json").write_text('[{"text": "Ahab"}]')
  results = {"schema": 2, "finished": True, "rows": [_row()]}
  (tmp_path / "results.json").write_text(json.dumps(results))
  run = runs.load(tmp_path)
  assert run.rows == [_row()] and run.samples[0]["text"] == "Ahab"
  assert run.heads is None
  heads = {"analysis": "heads", "heads": [], "needle": []}
  (tmp_path / "heads.json").write_text(json.dumps(heads))
  assert runs.load(tmp_path).heads == heads


@pytest.mark.parametrize("content", ["[1, 2]", "7", "[{}]", '[{"text": 1}]'])
def test_samples_that_are_none_are_refused_with_their_file(tmp_path, content):
  (tmp_path / "samples.json").write_text(content)
  with pytest.raises(ValueError, match=r"samples.json needs"):
    runs.load(tmp_path)


def test_a_step_logged_twice_counts_once_as_last_logged(tmp_path):
  _write_metrics(
    tmp_path,
    [
      _record(1, "pretrain", 10, 3.0),
      _record(2, "pretrain", 20, 2.0),
      _record(2, "pretrain", 20, 1.5),
    ],
  )
  assert [m["loss"] for m in runs.load(tmp_path).metrics] == [3.0, 1.5]


def test_a_phase_starts_where_the_one_before_it_ended():
  pretrain = [_record(i, "pretrain", 10 * i, 3.0) for i in (1, 2)]
  after = [_record(i, f"recalibrate_{i}", 10 * i, 5.0 - i) for i in (3, 4)]
  assert runs.start_of((*pretrain, *after), "recalibrate") == 20
  assert runs.start_of((*pretrain, *after), "pretrain") == 0
  assert runs.start_of(tuple(after), "pretrain") is None


def test_logs_of_the_models_are_loaded_by_their_names(tmp_path):
  for name in ("", "live.", "full."):
    record = _record(1, "recalibrate", 10, 2.0 + len(name))
    path = tmp_path / f"{name}metrics.jsonl"
    path.write_text(json.dumps(record) + "\n")
  (tmp_path / "held_out.json").write_text('{"full": 3.5}')
  run = runs.load(tmp_path)
  assert {n: log[0]["loss"] for n, log in run.logs.items()} == {
    "live": 7.0,
    "full": 7.0,
  }
  assert run.metrics[0]["loss"] == 2.0 and run.held_out == {"full": 3.5}


def test_seeds_are_gathered_to_a_mean_within_the_span_of_their_intervals():
  rows = [
    _row(seed=0, value=0.5, low=0.4, high=0.6),
    _row(seed=1, value=0.8, low=0.7, high=0.9, outcomes=[1.0, 1.0]),
    _row(factor=4.0),
  ]
  scores = runs.scores(rows)
  assert len(scores) == 2
  cell = runs.Cell("multi_key", "accuracy", "full", "model", 2.0, False)
  assert scores[cell][:4] == pytest.approx((0.65, 0.4, 0.9, 2))
  assert scores[cell].outcomes == {0: [1.0, 0.0], 1: [1.0, 1.0]}


def test_rows_on_the_same_samples_are_averaged_sample_by_sample():
  none = _row(outcomes=[0.0, 0.0], value=0.0, low=0.0, high=0.1)
  (score,) = runs.scores([_row(together=2), none | {"together": 2}]).values()
  assert score == (0.25, 0.0, 0.6, 2, {0: [0.5, 0.0]}, 2)


def test_a_score_without_an_interval_has_none():
  row = _row(low=None, high=None)
  del row["together"]  # As in files of earlier versions.
  (score,) = runs.scores([row]).values()
  assert score == (0.5, None, None, 1, {0: [1.0, 0.0]}, 1)


def test_a_loss_that_was_no_number_is_none_again():
  (score,) = runs.scores([_row(value=None, outcomes=[None, 1.0])]).values()
  assert math.isnan(score.value) and math.isnan(score.outcomes[0][0])


def test_mistakes_name_the_file_and_the_line(tmp_path):
  with pytest.raises(FileNotFoundError, match="one of metrics.jsonl"):
    runs.load(tmp_path)
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "pha}')
  with pytest.raises(ValueError, match="metrics.jsonl, line 1, must be JSON"):
    runs.load(tmp_path)
  _write_metrics(tmp_path, [{"step": 1, "phase": "pretrain", "loss": 1.0}])
  with pytest.raises(ValueError, match="line 1, .* no tokens"):
    runs.load(tmp_path)
  (tmp_path / "metrics.jsonl").unlink()
  results = tmp_path / "results.json"
  results.write_text('{"schema_version": 99, "finished": true, "rows": []}')
  with pytest.raises(ValueError, match="results.json: .*schema_version 99"):
    runs.load(tmp_path)
  results.write_text('{"schema": 2, "rows": []}')
  with pytest.raises(ValueError, match="no finished"):
    runs.load(tmp_path)
  results.write_text(
    '{"schema": 2, "finished": true, "rows": [{"task": "passkey"}]}'
  )
  with pytest.raises(ValueError, match="Result needs metric, model"):
    runs.load(tmp_path)
  results.write_text('["rows"]')
  with pytest.raises(ValueError, match="no finished"):
    runs.load(tmp_path)
  results.unlink()
  (tmp_path / "heads.json").write_text('{"heads": []}')
  with pytest.raises(ValueError, match="heads.json needs .* no needle"):
    runs.load(tmp_path)
