import json

import pytest

from drope_jax import artifacts
from drope_jax.analysis import runs
from drope_jax.cli import results
from drope_jax.evals.interface import Result
from drope_jax.evals.logit_scale import Fit
from drope_jax.evals.needles import Needles
from drope_jax.evals.suite import Material, Suite

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
  low=None,
  high=None,
  count=1,
  seed=5,
  mean_tokens=128.0,
  outcomes=(3.5,),
  series=((4, 3.0), (12, 4.0)),
)
FIT = Fit(4.0, 0.1, 1.1, ((0.0, 3.6), (0.1, 3.5)))


@pytest.fixture
def opened(trained, tmp_path):
  """Opens tmp_path/deep/results, for a suite's `changes`."""

  def opened(dtype="float32", keep_outputs=False, **changes):
    file = results.ResultsFile(
      tmp_path / "deep" / "results",
      Suite(seed=5, **changes),
      {"tiny": trained / "run"},
      Material(["test"], ["fit"]),
      keep_outputs,
      dtype,
    )
    file.load()
    return file

  return opened


@pytest.fixture
def written(opened):
  file = opened()
  file.record.rows.append(ROW)
  file.record.fits["tiny"] = {"yarn": FIT}
  file.save()
  return file.path


def test_the_file_holds_the_numbers_and_what_made_them(written):
  found = json.loads(written.read_text())
  assert found["schema_version"] == artifacts.VERSION
  assert found["settings"]["seed"] == 5
  assert found["fits"]["tiny"]["yarn"]["c"] == 0.1
  manifest = found["models"]["tiny"]["manifest"]
  assert [entry["operation"] for entry in manifest["lineage"]] == ["pretrain"]
  (row,) = found["rows"]
  assert (row["low"], row["high"]) == (None, None)
  assert (row["value"], row["series"]) == (3.5, [[4, 3.0], [12, 4.0]])


def test_what_was_written_is_found_again(written, opened):
  file = opened()
  assert not file.finished
  assert (file.record.rows, file.record.fits) == (
    [ROW],
    {"tiny": {"yarn": FIT}},
  )
  file.save(finished=True)
  assert opened().finished


def test_another_revision_that_goes_on_is_noted(written, opened, monkeypatch):
  begun = json.loads(written.read_text())["code"]
  monkeypatch.setattr(results.revision, "describe", lambda: "later")
  opened().save()
  assert json.loads(written.read_text())["code"] == [*begun, "later"]


def test_the_report_reads_what_was_written(written):
  run = runs.load(written.parent)
  ((cell, score),) = runs.scores(run.rows).items()
  assert (cell.method, cell.scale_fitted, score.value) == ("yarn", True, 3.5)


def test_nothing_else_is_left_in_the_folder(written):
  assert [path.name for path in written.parent.iterdir()] == ["results.json"]


def test_weights_of_another_dtype_are_another_evaluation(written, opened):
  with pytest.raises(ValueError, match="its dtype is 'float32', not 'int8'"):
    opened(dtype="int8")
  found = json.loads(written.read_text())
  del found["dtype"]  # As earlier versions wrote it.
  written.write_text(json.dumps(found))
  assert opened().record.rows == [ROW]


@pytest.mark.parametrize("kept", [False, True])
def test_outputs_of_all_steps_are_kept_or_of_none(opened, kept):
  file = opened(keep_outputs=kept)
  file.record.memory.add({"key": [1]}, [{"output": "one"}])
  # Before the first step is done, what lacks its output is read again.
  assert opened(keep_outputs=kept).record.memory.recall("key") == [1]
  assert opened(keep_outputs=not kept).record.memory.recall("key") is None
  file.save()
  said = f"begun {'with' if kept else 'without'} --keep-outputs. Choose another"
  with pytest.raises(ValueError, match=said):
    opened(keep_outputs=not kept)
  file.save(finished=True)
  if kept:
    assert opened().finished  # It is shown again, and nothing is removed.
  else:
    with pytest.raises(ValueError, match=said):
      opened(keep_outputs=True)
  assert file.path.with_name("samples.jsonl").exists() == kept


def test_long_settings_are_named_in_short(written, opened):
  words = tuple(f"word{i}" for i in range(999))
  with pytest.raises(ValueError, match="its Suite.needles.words is ") as error:
    opened(needles=Needles(words=words))
  assert "word5" in str(error.value) and "word9" not in str(error.value)


def test_a_file_is_no_folder_for_results(written):
  with pytest.raises(NotADirectoryError, match="got the file"):
    results.ResultsFile(written, Suite(), {}, Material([], []))
