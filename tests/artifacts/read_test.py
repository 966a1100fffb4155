"""Files of earlier versions can be read and resumed from: see README.md."""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from drope_jax import artifacts, sharding
from drope_jax.analysis import damage, records, runs
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store
from drope_jax.checkpoint.formats import hf
from drope_jax.cli import main
from drope_jax.data import store as data_store
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Rope
from drope_jax.train import loop

HERE = pathlib.Path(__file__).parent
_spec = importlib.util.spec_from_file_location("write", HERE / "write.py")
write = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(write)


@pytest.fixture(params=sorted(path.name for path in HERE.glob("schema_*")))
def folder(request, tmp_path, monkeypatch):
  """The working directory: a copy of what one version wrote."""
  copy = tmp_path / request.param
  shutil.copytree(HERE / request.param, copy)
  monkeypatch.chdir(copy)
  return copy


@pytest.fixture
def gained(monkeypatch):
  """ModelConfig with one more field."""
  config = _with_field(ModelConfig, "novelty", float, 0.5)
  monkeypatch.setattr(manifests, "ModelConfig", config)
  return config


def _with_field(cls, name, kind, default):
  """Returns a dataclass equal to `cls` with one more field."""
  return dataclasses.make_dataclass(
    cls.__name__, [(name, kind, default)], bases=(cls,), frozen=True
  )


def _gaining(value, cls):
  """Returns a value as an instance of a class with one more field."""
  fields = {
    field.name: getattr(value, field.name)
    for field in dataclasses.fields(value)
  }
  return cls(**fields)


def test_every_schema_version_has_artifacts():
  newest = HERE / f"schema_{artifacts.VERSION}"
  assert newest.is_dir(), f"write {newest} with write.py, and keep the others"


def test_a_checkpoint_has_its_config_weights_and_lineage(folder):
  params, manifest = store.load_model("run/pretrain")
  assert manifest.model == write.MODEL
  assert manifest.model.positional == Rope(10_000.0)
  assert manifest.tokenizer.vocab_size == 280
  (entry,) = manifest.lineage
  assert (entry.operation, entry.tokens, entry.steps) == ("pretrain", 128, 4)
  assert params["embed"]["table"].shape == (288, 8)
  config = store.describe("run")[0].model
  assert (type(config.positional).__name__, config.qk_norm) == ("Nope", "qk")


def test_a_checkpoint_is_read_by_a_config_with_one_field_more(folder, gained):
  manifest, _ = store.describe("run/pretrain")
  assert manifest.model == _gaining(write.MODEL, gained)
  assert manifest.model.novelty == 0.5


def test_the_error_for_a_field_of_later_code_names_that_version(folder, gained):
  manifest, _ = store.describe("run/pretrain")
  later = dataclasses.replace(manifest.lineage[-1], code="9.9+git.f00d")
  manifest = dataclasses.replace(manifest, lineage=(later,))
  params, _ = store.load_model("run/pretrain")
  store.save_model("later", params, manifest, "tiny.model")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(manifests, "ModelConfig", ModelConfig)
    with pytest.raises(ValueError) as error:
      store.describe("later")
  message = str(error.value)
  assert message.startswith(f"{folder}/later: ")
  assert "ModelConfig has no field novelty, got a file of 9.9+git" in message


@pytest.mark.parametrize("name", ["demo_base", "demo_partial", "demo_drope"])
def test_packaged_checkpoints_are_read_by_later_code(gained, name):
  packaged = HERE.parents[1] / "drope_jax/assets/checkpoints" / name
  manifest, _ = store.describe(packaged)
  assert (manifest.model.novelty, manifest.model.width) == (0.5, 128)
  phase = manifest.lineage[0].arguments["phase"]
  assert phase["remat"] == "none"  # It was False in the file.


def test_the_rotations_that_a_packaged_drop_keeps_have_their_new_name():
  packaged = HERE.parents[1] / "drope_jax/assets/checkpoints/demo_partial"
  lineage = store.describe(packaged)[0].lineage
  surgeries = [
    e.arguments["surgery"] for e in lineage if e.operation == "surgery"
  ]
  assert [surgery["keep_rotations"] for surgery in surgeries] == [1, None]
  assert not any("keep_turns" in surgery for surgery in surgeries)


def test_the_fingerprint_of_a_checkpoint_does_not_change(folder, gained):
  before = {
    "schema_3": "json:f85cbd54",
    "schema_4": "json:cd5cf5e8",
    "schema_5": "json:b4666142",
  }
  assert store.fingerprint("run/pretrain") == before[folder.name]


def test_a_resumed_run_ends_like_an_uninterrupted_one(folder, monkeypatch):
  # The recipe's mesh has one device.
  make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(sharding, "make_mesh", make_mesh)
  recipe = write.RECIPE
  trained = _with_field(type(recipe.phases[0]), "gained_by_phase", int, 3)
  widened = _with_field(type(recipe), "gained_by_recipe", tuple, (1, 2))
  phases = tuple(
    _gaining(phase, trained) if hasattr(phase, "steps") else phase
    for phase in recipe.phases
  )
  recipe = _gaining(dataclasses.replace(recipe, phases=phases), widened)
  other = dataclasses.replace(recipe, gained_by_recipe=(1, 3))
  with pytest.raises(ValueError, match="by_recipe.1. was 2 and is 3"):
    loop.run(other, "run", base_dir=".")
  model = loop.run(recipe, "run", base_dir=".")
  assert model.manifest.lineage[-1].steps == 8
  lines = records.read_metrics("run")
  whole = [
    json.loads(line)
    for line in pathlib.Path("whole.metrics.jsonl").read_text().splitlines()
  ]
  assert [line["step"] for line in lines] == list(range(1, 9))
  # Other processors round differently.
  np.testing.assert_allclose(
    [line["loss"] for line in lines],
    [line["loss"] for line in whole],
    rtol=1e-3,
  )


def test_a_token_store_verifies(folder):
  found = data_store.Store.open("store")
  found.verify()
  assert (found.num_documents, found.vocab_size) == (50, 280)
  assert found.metadata.provenance == {"model": "none"}


def test_results_are_reported_and_resumed(folder):
  run = runs.load("results")
  assert len(runs.scores(run.rows)) == len(run.rows) == 12
  manifest = manifests.Manifest.from_json(run.manifest("base"))
  assert manifest == store.describe("run/pretrain")[0]
  file = pathlib.Path("results/results.json")
  whole = json.loads(file.read_text())
  cut = {"rows": whole["rows"][:-2], "finished": False}
  file.write_text(json.dumps(whole | cut))
  evaluate = "evaluate base=run/pretrain --suite suite.gin --out results"
  texts = "--text test.txt --fit-text fit.txt"
  assert main.main([*evaluate.split(), *texts.split()]) == 0
  found = json.loads(file.read_text())
  assert found["schema_version"] == artifacts.VERSION
  assert (found["finished"], found["created"]) == (True, whole["created"])
  assert set(whole["code"]) <= set(found["code"])
  # Fields that a row has gained since have defaults.
  kept = zip(found["rows"][:-2], whole["rows"][:-2], strict=True)
  assert all(row | old == row for row, old in kept)
  # Other processors round differently.
  values = [[row["value"] for row in of["rows"]] for of in (found, whole)]
  np.testing.assert_allclose(*values, rtol=1e-3)


def test_a_damage_report_is_read(folder):
  data = json.loads(pathlib.Path("damage.json").read_text())
  found = damage.Damage.from_json(data)
  assert found.before.loss == data["before"]["loss"]
  assert len(found.before.entropy_N) == 2 and found.pairs.kept == 0


def test_an_export_is_converted_back_with_its_lineage(folder):
  source = hf.open_folder(
    pathlib.Path("exported"), dtype="keep", allow_nonfinite=False
  )
  assert source.lineage == store.describe("run/pretrain")[0].lineage
