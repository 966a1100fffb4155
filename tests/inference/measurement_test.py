"""Scores of parameters are those of an evaluation, and keep to a budget."""

import ast
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from drope_jax import positional, sharding
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint.model import Model
from drope_jax.data import tokenizer
from drope_jax.evals.periodic import Periodic
from drope_jax.evals.record import Record
from drope_jax.evals.suite import Suite
from drope_jax.inference import evaluation, lm, measurement
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from tests import xla

CONFIG = ModelConfig(512, 1, 16, 2, 1, 8, 16, context_tokens=32)
SUITE = Suite(
  evals=("perplexity", "passkey"),
  methods=("model", "yarn"),
  factors=(2.0, 4.0),
  samples=(2, 2),
  excerpts=2,
  max_new_tokens=2,
  fit_factor=None,
)


def _model(path):
  opened = tokenizer.load(str(path))
  reference = manifests.TokenizerRef(
    path.name, opened.fingerprint, opened.vocab_size
  )
  manifest = manifests.Manifest(CONFIG, reference, ())
  params = transformer.init(CONFIG, jax.random.key(0))
  return Model(params, manifest, pathlib.Path(path))


@pytest.fixture(scope="module")
def model(test_data):
  return _model(test_data / "stories260K" / "tok512.model")


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh("fsdp", devices=jax.devices()[:1])


def test_scores_are_those_of_an_evaluation_of_the_parameters(model, mesh):
  measure = measurement.Measurement(Periodic(SUITE), model, mesh, "float32")
  other = transformer.init(CONFIG, jax.random.key(1))
  got = measure(other)
  assert got.pop("evals_s") > 0 and got.pop("evals_left_out") == 0
  assert got.keys() == dict(Periodic(SUITE).scores()).keys()
  record = Record()
  lms = {"m": lm.CheckpointLM.of(dataclasses.replace(model, params=other))}
  for step in evaluation.plan(SUITE, lms, evaluation.packaged(), record):
    step.run()
  for row in record.rows:
    method = "" if row.method == "model" else f".{row.method}"
    name = f"{row.task}.{row.metric}.{row.factor:g}x{method}"
    assert got[name] == row.value
  assert (
    measure(model.params)["perplexity.loss.4x"] != got["perplexity.loss.4x"]
  )


def test_what_has_not_begun_within_the_budget_is_left_out(
  model, mesh, monkeypatch
):
  measure = measurement.Measurement(
    Periodic(SUITE, budget_minutes=2.0), model, mesh, "float32"
  )
  minutes = iter(range(99))
  monkeypatch.setattr(
    measurement.time, "monotonic", lambda: 60.0 * next(minutes)
  )
  got = measure(model.params)
  # The clock is read at the start and before each step; one begins at 1.
  assert got["evals_left_out"] == 7
  assert "perplexity.loss.2x" in got and "passkey.accuracy.2x" not in got


def test_text_that_does_not_do_is_refused_at_once(model, mesh, tmp_path):
  (tmp_path / "short.txt").write_text("A word.")
  short = Periodic(SUITE, text=(str(tmp_path / "short.txt"),))
  with pytest.raises(ValueError, match="Suite.excerpts: 2 excerpts of 128"):
    measurement.Measurement(short, model, mesh, "float32")
  same = Periodic(SUITE, fit_text=("packaged:test",))
  with pytest.raises(ValueError, match="must not overlap"):
    measurement.Measurement(same, model, mesh, "float32")


def test_a_best_score_of_a_method_that_does_not_fit_is_refused(model, mesh):
  best = Periodic(SUITE, best="passkey.accuracy.2x.yarn")
  measurement.Measurement(best, model, mesh, "float32")
  nope = dataclasses.replace(CONFIG, positional=positional.Nope())
  dropped = dataclasses.replace(
    model, manifest=dataclasses.replace(model.manifest, model=nope)
  )
  with pytest.raises(
    ValueError, match="best passkey.accuracy.2x.yarn for Nope"
  ):
    measurement.Measurement(best, dropped, mesh, "float32")


_ONE_OF_TWO = """
import importlib.util, itertools, pathlib, sys, types
import jax
from drope_jax import sharding
from drope_jax.inference import measurement
test, index, address, axis, path = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
spec = importlib.util.spec_from_file_location("measurement_test", test)
own = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own)
if index == "1":  # Its clock says that the budget has passed.
  late = itertools.count(0.0, 1e9)
  measurement.time = types.SimpleNamespace(monotonic=lambda: next(late))
model = own._model(pathlib.Path(path))
mesh = sharding.make_mesh(sharding.MeshConfig(**{"fsdp": 1, axis: 2}))
shardings = sharding.param_shardings(mesh, model.params)
params = jax.tree.map(own._split, model.params, shardings)
wanted = own.Periodic(own.SUITE)
print(measurement.Measurement(wanted, model, mesh, "float32")(params))
"""


def _split(array, sharding):
  """Returns the array over the devices of all processes."""
  part = np.asarray(array).__getitem__
  return jax.make_array_from_callback(array.shape, sharding, part)


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["fsdp", "tensor", "context"])
def test_processes_that_share_a_model_find_the_scores_of_one(model, mesh, axis):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", _ONE_OF_TWO, __file__]
      + [str(index), address, axis, str(model.tokenizer_path)],
      env=os.environ | {"XLA_FLAGS": xla.flags(devices=1)},
      stdout=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  found = [process.communicate(timeout=900)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  measure = measurement.Measurement(Periodic(SUITE), model, mesh, "float32")
  want = measure(model.params)
  for said in found:
    got = ast.literal_eval(said.splitlines()[-1])
    assert got.pop("evals_s") > 0 and got.keys() < want.keys()
    for name, value in got.items():
      # Sums over processes may round otherwise.
      assert value == pytest.approx(want[name], abs=1e-5), name
