"""A run's folder is claimed once, by all of its processes alike."""

import dataclasses
import json

import jax
from jax.experimental import multihost_utils
import pytest

from drope_jax.checkpoint import checksums
from drope_jax.data.pipeline import DataConfig
from drope_jax.train import claim, optimizer
from drope_jax.train.phases import TrainPhase
from drope_jax.train.recipe import Recipe

PHASE = TrainPhase(
  name="pretrain",
  data=DataConfig(("store",)),
  batch_size=4,
  context_tokens=4,
  optimizer=optimizer.AdamW(),
  schedule=optimizer.Constant(0.02),
  steps=5,
)
RECIPE = Recipe(phases=(PHASE,), init_from="packaged:checkpoints/demo_base")


@pytest.mark.parametrize("index", [0, 1])
def test_all_processes_look_before_the_first_writes(
  tmp_path, monkeypatch, index
):
  file, found = tmp_path / "run" / "recipe.json", []
  monkeypatch.setattr(jax, "process_index", lambda: index)
  monkeypatch.setattr(
    multihost_utils,
    "sync_global_devices",
    lambda name: found.append(file.exists()),
  )
  claim.folder(RECIPE, {"store": "abc"}, tmp_path / "run")
  # Another process waits at the second until the first has written.
  assert found == [False, index == 0]


def test_a_field_that_a_class_gained_since_means_its_default(tmp_path):
  directory = tmp_path / "run"
  claim.folder(RECIPE, {"store": "abc"}, directory)
  file = directory / "recipe.json"
  begun = json.loads(file.read_text())
  del begun["phases"][0]["z_loss"], begun["phases"][0]["guard"]["max_ratio"]
  file.write_text(json.dumps(begun))
  claim.folder(RECIPE, {"store": "abc"}, directory)
  phase = dataclasses.replace(PHASE, z_loss=1e-4)
  other = dataclasses.replace(RECIPE, phases=(phase,))
  with pytest.raises(
    ValueError, match=r"phases\[0\]\.z_loss was 0.0 and is 0.0001"
  ):
    claim.folder(other, {"store": "abc"}, directory)
  del begun["phases"][0]["batch_size"]
  file.write_text(json.dumps(begun))
  with pytest.raises(ValueError, match="TrainPhase needs batch_size, "):
    claim.folder(RECIPE, {"store": "abc"}, directory)


@pytest.mark.parametrize("start", [None, checksums.of_json({})])
def test_a_start_that_an_earlier_version_did_not_know_is_any(tmp_path, start):
  directory = tmp_path / "run"
  claim.folder(RECIPE, {"store": "abc"}, directory)
  file = directory / "recipe.json"
  begun = json.loads(file.read_text())
  assert begun["start"] not in (None, checksums.of_json({}))
  file.write_text(json.dumps(begun | {"start": start}))
  claim.folder(RECIPE, {"store": "abc"}, directory)
  file.write_text(json.dumps(begun | {"start": checksums.of_json([])}))
  with pytest.raises(ValueError, match="got others in its Recipe.init_from"):
    claim.folder(RECIPE, {"store": "abc"}, directory)
