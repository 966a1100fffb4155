"""`drope sample`: a store of the model's own text, interrupted or not."""

import json

import numpy as np
import pytest

from drope_jax.analysis import records
from drope_jax.checkpoint import store as checkpoints
from drope_jax.data import lock, store, writer
from drope_jax.inference import sampling

SAMPLE = ("sample", "run", "--batch", 8, "--tokens", "2k", "--out")

RECIPE = """
Recipe:
  init_from = 'run/pretrain'
  phases = (@SurgeryPhase(), @TrainPhase())
SurgeryPhase.surgery = @Surgery()
Surgery.drop = 'all'
TrainPhase:
  name = 'recalibrate'
  data = @DataConfig()
  batch_size = 8
  context_tokens = 32
  steps = 2
  optimizer = @AdamW()
  schedule = @Constant()
DataConfig.stores = ('own',)
Constant.peak = 1e-3
"""


@pytest.mark.slow
def test_a_recipe_can_train_on_sampled_text_alone(drope, here):
  ran = drope(*SAMPLE, "own")
  assert ran.status == 0, ran.err
  own = store.Store.open("own")
  own.verify()
  assert 2000 <= own.num_tokens < 2000 + 32
  assert f"own: {own.num_tokens:,} tokens in {own.num_documents}" in ran.out
  assert "sampled" in ran.err and "tokens/s" in ran.err
  assert np.diff(own.boundaries).max() <= 32
  assert np.ptp(own.read(0, own.num_tokens)) > 300, "it says little"
  (here / "own.gin").write_text(RECIPE)
  (here / "text").rename(here / "elsewhere")
  ran = drope("train", "own.gin", "--out", "recalibrated")
  assert ran.status == 0, ran.err
  assert [line["phase"] for line in records.read_metrics("recalibrated")]
  last = checkpoints.describe("recalibrated")[0].lineage[-1]
  assert own.fingerprint in json.dumps(last.arguments)


def test_the_store_has_its_provenance_and_inspect_shows_it(drope, here):
  assert drope(*SAMPLE, "own", "--seed", 5).status == 0
  found = json.loads(drope("inspect", "own", "--json").out)
  about = found["provenance"]
  checkpoint = checkpoints.locate("run")
  assert about["model"] == str(checkpoint)
  assert about["fingerprint"] == checkpoints.fingerprint(checkpoint)
  assert about["lineage"] == checkpoints.describe("run")[0].to_json()["lineage"]
  settings = ("seed", "temperature", "begin", "dtype", "context_tokens")
  assert [about[name] for name in settings] == [5, 1.0, "eos", "float32", 32]
  shown = drope("inspect", "own").out
  for words in ("token store", "sampled from", "1. pretrain", "temperature"):
    assert words in shown
  assert "sampled from" not in drope("inspect", "text").out


def test_interrupted_sampling_gives_the_same_store(drope, here, monkeypatch):
  monkeypatch.setattr(writer, "_BATCH_S", 0.0)
  monkeypatch.setattr(writer, "_PART_S", 0.0)
  assert drope(*SAMPLE, "whole").status == 0
  begun, places = sampling.ModelText.documents, []

  def recorded(self, first=0):
    places.append(first)
    return begun(self, first)

  monkeypatch.setattr(sampling.ModelText, "documents", recorded)
  write, join = writer._write_part, writer._join

  def stopping(function, calls):
    def run(*args):
      nonlocal calls
      calls -= 1
      if not calls:
        raise KeyboardInterrupt
      return function(*args)

    return run

  for name, function, calls in (
    ("_write_part", write, 1),
    ("_write_part", write, 20),
    ("_write_part", write, 31),
    ("_join", join, 1),
  ):
    with monkeypatch.context() as patch:
      patch.setattr(writer, name, stopping(function, calls))
      ran = drope(*SAMPLE, "cut")
    assert ran.status == 130
    assert ran.err.endswith("interrupted; the same command resumes\n")
    with pytest.raises(ValueError, match="drope sample"):
      store.Store.open("cut")
  ran = drope(*SAMPLE, "cut")
  assert ran.status == 0, ran.err
  # Each start found what was saved at the interrupt; the last found all.
  assert places == [0, 1, 21, 52]
  cut, whole = store.Store.open("cut"), store.Store.open("whole")
  cut.verify()
  assert cut.metadata == whole.metadata
  assert drope(*SAMPLE, "cut").status == 0, "a finished one is as it is"
  assert len(places) == 4


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    (("--tokens", "0"), "at least 1 is needed, e.g. 20M"),
    (("--tokens", "many"), "got 'many'"),
    (("--batch", "0"), "multiple of 1, to split evenly"),
    (("--temperature", "0"), "--temperature above 0"),
    (("--seed", "-1"), "--seed from 0"),
    (("--mesh", "fsdp", "--batch", "12"), "multiple of 8"),
    (("--out", "run"), "needs its own folder, got run"),
    (("--out", "text"), "a finished store of other inputs"),
  ],
)
def test_a_mistake_is_one_line_and_status_2(drope, here, changes, says):
  ran = drope(*SAMPLE, "own", *changes)
  assert ran.status == 2, ran
  (line,) = ran.err.strip().splitlines()
  assert line.startswith("drope sample: ") and says in line
  assert not (here / "own").exists()


def test_an_unknown_model_is_one_line(drope, here):
  ran = drope("sample", "nowhere", "--tokens", "1k", "--out", "own")
  assert ran.status == 2 and ran.err.count("\n") == 1
  assert "nowhere, which does not exist" in ran.err


def test_a_store_of_other_settings_is_refused(drope, here, monkeypatch):
  def interrupted(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(writer, "_write_part", interrupted)
    assert drope(*SAMPLE, "own").status == 130
  for change in (("--seed", 1), ("--tokens", "3k"), ("--begin", "bos")):
    ran = drope(*SAMPLE, "own", *change)
    assert ran.status == 2
    assert "an unfinished store of other inputs" in ran.err


def test_a_folder_has_one_writer(drope, here):
  with lock.held("own"):
    ran = drope(*SAMPLE, "own")
  assert ran.status == 2 and "one writer at a time" in ran.err
