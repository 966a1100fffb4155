"""What is read of a sweep's trainings, and their means over seeds."""

import json

import numpy as np
import pytest

from drope_jax.analysis import sweeps
from drope_jax.cli import output
from drope_jax.evals import interface


def _log(folder, losses, **more):
  folder.mkdir()
  lines = [
    {"step": i, "phase": "a" if i < 50 else "b", "tokens": 10 * i, "loss": x}
    for i, x in enumerate(losses)
  ]
  lines[-1] |= more
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "metrics.jsonl").write_text(text)
  return folder


def test_a_training_has_the_end_of_its_loss_its_spikes_and_its_results(
  tmp_path,
):
  losses = [3 + 0.01 * (i % 3) for i in range(50)]
  losses += [2 + 0.01 * (i % 3) for i in range(90)]
  losses[130], losses[138], losses[139] = 4.0, 1.0, 1.5
  folder = _log(tmp_path / "run", losses, held_out_loss=1.7)
  row = interface.Result(
    task="multi_key",
    metric="accuracy",
    model="qk_s1",
    method="yarn",
    factor=4.0,
    context_tokens=512,
    logit_scale=1.2,
    scale_fitted=True,
    value=0.5,
    low=None,
    high=None,
    count=2,
    seed=0,
    mean_tokens=9.0,
    outcomes=(0.0, 1.0),
  ).to_dict()
  rows = [row, row | {"metric": "string_match_all", "value": 0.9}]
  results = {"finished": True, "rows": rows, "schema_version": 5}
  (folder / "results.json").write_text(json.dumps(results))
  training = sweeps.read(folder, ("qk", "3e-4"), 1)
  found = dict(training.scores)
  # The last 5% of 90 records are 4.
  assert found.pop("loss") == pytest.approx(
    (2 + 2.01 + 1.0 + 1.5) / 4, abs=0.01
  )
  assert found == {"held-out loss": 1.7, "spikes": 1}
  assert training.results == [{**row, "model": "qk · 3e-4"} for row in rows]
  assert sweeps.summary(training)["results"] == {
    "yarn": {
      "multi_key accuracy 4x +scale": 0.5,
      "multi_key string_match_all 4x +scale": 0.9,
    }
  }
  (folder / "results.json").write_text(
    json.dumps(results | {"finished": False})
  )
  assert not sweeps.read(folder, (), 1).results


def test_a_training_that_diverged_has_no_mean(tmp_path):
  for seed, last in enumerate((3.0, None)):
    folder = _log(tmp_path / str(seed), [3.0] * 9, held_out_loss=last)
    whole = dict.fromkeys(
      ("context_tokens", "logit_scale", "count", "mean_tokens"), 8
    )
    row = whole | _row(f"qk_s{seed}", [3.0] * 8) | {"value": last}
    results = {"finished": True, "rows": [row], "schema_version": 5}
    (folder / "results.json").write_text(json.dumps(results))
  read = [sweeps.read(tmp_path / str(seed), ("qk",), seed) for seed in (0, 1)]
  row = sweeps.table(read)["qk"]
  assert row["loss"].mean == 3
  for name in ("held-out loss", "multi_key accuracy 4x"):
    assert np.isnan(row[name].mean) and row[name].low is None
  out = output.Output.open(tmp_path / "out")
  out.json("sweep", trainings=[*map(sweeps.summary, read)], rows=row)
  saved = json.loads((tmp_path / "out" / "sweep.json").read_text())
  assert saved["rows"]["held-out loss"]["mean"] is None


def test_a_training_without_a_log_is_refused(tmp_path):
  with pytest.raises(ValueError, match="needs a record in .*, got none"):
    sweeps.read(tmp_path, ("qk",), 0)


def _row(model, outcomes, *, method="model", factor=4.0, seed=0):
  return {
    "task": "multi_key",
    "metric": "accuracy",
    "model": model,
    "method": method,
    "factor": factor,
    "scale_fitted": False,
    "value": sum(outcomes) / len(outcomes),
    "low": None,
    "high": None,
    "seed": seed,
    "outcomes": outcomes,
  }


def _training(label, seed, results=(), **scores):
  return sweeps.Training((label,), seed, scores, list(results))


def test_a_table_has_means_over_seeds_with_students_intervals():
  trainings = [
    _training("a", seed, loss=loss) for seed, loss in enumerate((1.0, 2.0, 3.0))
  ]
  trainings.append(_training("b", 0, loss=5.0, spikes=1.0))
  table = sweeps.table(trainings)
  # t of 2 degrees of freedom, 4.303, times 1 / sqrt(3).
  cell = table["a"]["loss"]
  assert (cell.mean, cell.seeds) == (2.0, 3)
  assert (cell.low, cell.high) == pytest.approx((-0.484, 4.484), abs=1e-3)
  assert table["b"]["loss"] == sweeps.Cell(5.0, None, None, 1)
  left, right = sweeps.plot(table, ("loss", "spikes")).axes
  assert [line.get_xdata()[0] for line in left.lines] == [2.0, 5.0]
  assert [line.get_ydata()[0] for line in right.lines] == [1]


@pytest.mark.parametrize(
  ("task", "metric"), [("multi_key", "accuracy"), ("arc_easy", "acc_norm")]
)
def test_the_interval_of_a_share_stays_within_0_and_1(task, metric):
  trainings = [
    _training(
      "a",
      seed,
      [_row("a", outcomes) | {"task": task, "metric": metric}],
      loss=2.0,
    )
    for seed, outcomes in enumerate(([1.0, 0.0], [1.0, 1.0]))
  ]
  cell = sweeps.table(trainings)["a"][f"{task} {metric} 4x"]
  assert (cell.mean, cell.low, cell.high) == (0.75, 0.0, 1.0)


def test_each_method_is_a_row_and_references_are_beside_the_trainings():
  results = [_row("a", [1.0, 0.0]), _row("a", [1.0, 1.0], method="yarn")]
  table = sweeps.table(
    [_training("a", 0, results, loss=2.0)], [_row("base", [0.0, 0.0])]
  )
  name = "multi_key accuracy 4x"
  assert {row: cells[name].mean for row, cells in table.items()} == {
    "a": 0.5,
    "a · YaRN": 1.0,
    "base": 0.0,
  }
  assert "loss" not in table["a · YaRN"]


def test_the_plot_has_the_lengths_of_a_score_in_a_line():
  names = ("loss", "multi_key accuracy 1x", "multi_key accuracy 8x")
  table = {"a": {name: sweeps.Cell(0.5, None, None, 1) for name in names}}
  fig = sweeps.plot(table, names)
  log, scores = fig.subfigs
  assert [ax.get_title("left") for ax in log.axes] == ["loss"]
  assert scores.get_suptitle() == "multi_key accuracy"
  assert [ax.get_title("left") for ax in scores.axes] == ["1x", "8x"]


def test_differences_are_of_the_same_samples_over_seeds():
  rows = [
    _row("base", [1.0, 0.0, 0.0, 0.0] * 10, method="yarn"),
    _row("a", [1.0, 1.0, 0.0, 0.0] * 10),
    _row("a", [1.0, 1.0, 1.0, 0.0] * 10),
    _row("a", [1.0] * 40, factor=8.0),
  ]
  found = sweeps.differences(rows, "base · YaRN")
  # Only what the other row has as well.
  ((name, apart),) = found.pop("a").items()
  assert name == "multi_key accuracy 4x" and not found
  assert apart.value == pytest.approx(0.375)
  assert (apart.low, apart.high) == pytest.approx((0.24, 0.51), abs=0.01)
  assert not sweeps.differences(rows, "base")


def test_scores_are_grouped_by_what_they_measure():
  names = ("loss", "multi_key accuracy 4x", "spikes", "a b 0.5x +scale")
  assert sweeps.groups(names) == {
    "training": {"loss": "loss", "spikes": "spikes"},
    "multi_key accuracy": {"4x": "multi_key accuracy 4x"},
    "a b": {"0.5x +scale": "a b 0.5x +scale"},
  }
