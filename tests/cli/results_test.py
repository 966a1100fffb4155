import json
import math

import pytest

from drope_jax.analysis import runs
from drope_jax.cli import results
from drope_jax.evals.interface import Result
from drope_jax.evals.logit_scale import Fit
from drope_jax.evals.suite import Suite

ROW = Result(
  task="perplexity",
  metric="loss",
  model="tiny",
  method="yarn",
  factor=4.0,
  context_tokens=32,
  logit_scale=1.1,
  scale_fitted=True,
  value=3.5,
  low=math.nan,
  high=math.nan,
  count=1,
  seed=5,
  mean_tokens=128.0,
  series=((4, 3.0), (12, 4.0)),
)
FIT = Fit(4.0, 0.1, 1.1, ((0.0, 3.6), (0.1, 3.5)))


@pytest.fixture
def written(trained, tmp_path):
  return results.write(
    tmp_path / "deep" / "results",
    Suite(seed=5),
    {"tiny": trained / "run"},
    [ROW],
    {"tiny": {"yarn": FIT}},
  )


def test_the_file_holds_the_numbers_and_what_made_them(written):
  found = json.loads(written.read_text())
  assert found["schema"] == results.SCHEMA_VERSION == runs.RESULTS_SCHEMA
  assert found["settings"]["seed"] == 5
  assert found["fits"]["tiny"]["yarn"]["c"] == 0.1
  manifest = found["models"]["tiny"]["manifest"]
  assert [entry["operation"] for entry in manifest["lineage"]] == ["pretrain"]
  (row,) = found["rows"]
  assert (row["low"], row["high"]) == (None, None), "NaN is no JSON"
  assert (row["value"], row["series"]) == (3.5, [[4, 3.0], [12, 4.0]])


def test_the_report_reads_what_was_written(written):
  run = runs.load(written.parent)
  ((cell, score),) = runs.scores(run.rows).items()
  assert (cell.method, cell.scale_fitted, score.value) == ("yarn", True, 3.5)


def test_nothing_else_is_left_in_the_folder(written):
  assert [path.name for path in written.parent.iterdir()] == ["results.json"]


def test_a_folder_with_results_is_refused_and_others_are_not(written, tmp_path):
  with pytest.raises(ValueError, match="holds results.json"):
    results.require_new(written.parent)
  with pytest.raises(NotADirectoryError, match="got the file"):
    results.require_new(written)
  results.require_new(tmp_path)
  results.require_new(tmp_path / "absent")
