"""What would fit is found in few compilations."""

import argparse
import dataclasses
import types

import jax
from orbax.checkpoint._src.serialization import replica_slices
import pytest

from drope_jax import sharding
from drope_jax.checkpoint import runs
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.cli import plan as cli
from drope_jax.data.pipeline import DataConfig
from drope_jax.model import remat, transformer
from drope_jax.model.config import ModelConfig
from drope_jax.plan import placement, training
from drope_jax.plan.slices import parse
from drope_jax.positional import Rope
from drope_jax.train import state as states
from drope_jax.train.optimizer import AdamW, Constant
from drope_jax.train.phases import TrainPhase
from drope_jax.train.recipe import Recipe

PHASE = TrainPhase(
  name="recalibrate",
  data=DataConfig(("text",)),
  batch_size=64,
  context_tokens=16,
  optimizer=AdamW(),
  schedule=Constant(1e-3),
  steps=1,
)


@pytest.fixture
def eight_devices(monkeypatch):
  monkeypatch.setattr(placement, "devices", lambda target: jax.devices())


def _tried(remat, last_too_large, monkeypatch):
  """Returns what is compiled where all before a place do not fit."""
  phase = dataclasses.replace(PHASE, remat=remat)
  recipe = Recipe((phase,), init_from="any", mesh="fsdp")
  others = training.with_less_memory(recipe, phase, parse("v5e-8"))
  steps = [(p.remat, p.accumulation) for p in (phase, *(p for _, p in others))]

  def plan(recipe, phase, *_):
    assert phase in recipe.phases
    step = phase.remat, phase.accumulation
    fits = steps.index(step) > last_too_large
    return types.SimpleNamespace(fits=fits, step=step), None

  monkeypatch.setattr(training, "plan", plan)
  args = argparse.Namespace(mfu=0.5, quick=False)
  found = cli._train(recipe, phase, None, parse("v5e-8"), args, None)
  return steps, [plan for plan, _ in found]


@pytest.mark.parametrize("last_too_large", range(-1, 11))
def test_the_fastest_that_fits_is_the_last_fit(
  last_too_large, eight_devices, monkeypatch
):
  steps, tried = _tried("none", last_too_large, monkeypatch)
  fitting = [plan.step for plan in tried if plan.fits]
  assert fitting[-1:] == steps[last_too_large + 1 :][:1]
  assert len(tried) <= 1 + len(steps).bit_length()


def test_each_policy_and_microbatch_comes_once_after_the_recipes(
  eight_devices, monkeypatch
):
  steps, _ = _tried("none", -1, monkeypatch)
  named = {name for name in remat.POLICIES if "offloaded" not in name}
  assert {name for name, _ in steps} == named
  assert steps[-4:] == [("full", n) for n in (1, 2, 4, 8)]
  for start, (name, _) in enumerate(steps[:-4]):
    assert _tried(name, -1, monkeypatch)[0] == steps[start:]


@pytest.mark.parametrize(("chunk_tokens", "held"), [(64, 64), (4096, 128)])
def test_a_device_holds_the_logits_of_a_chunk_or_of_all_its_tokens(
  chunk_tokens, held
):
  phase = dataclasses.replace(PHASE, loss_chunk_tokens=chunk_tokens)
  mesh = sharding.make_mesh("fsdp", jax.devices())
  assert mesh.size == 8 and phase.batch_size * phase.context_tokens == 1024
  config = types.SimpleNamespace(vocab_size=100)
  assert training._logits(phase, config, mesh) == 4 * held * 100


@pytest.mark.parametrize(
  "mesh", [{}, {"data": 8, "fsdp": 1}, {"context": 4}, {"data": 2, "tensor": 2}]
)
def test_a_save_takes_the_memory_that_orbax_copies(mesh, monkeypatch, tmp_path):
  mesh = sharding.make_mesh(sharding.MeshConfig(**mesh), jax.devices())
  config = ModelConfig(
    vocab_size=4096,
    num_layers=2,
    width=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_width=32,
    context_tokens=16,
    positional=Rope(),
  )
  params = transformer.init(config, jax.random.key(0))
  state = states.start(PHASE, config, mesh, params, 0)
  copied, slices_of = [], replica_slices.get_replica_slices

  def sliced(*args, **options):
    found = slices_of(*args, **options)
    copied.append(found.nbytes)
    return found

  monkeypatch.setattr(replica_slices, "get_replica_slices", sliced)
  manifest = Manifest(model=config, tokenizer=None, lineage=())
  with runs.RunStore(tmp_path) as saves:
    saves.save(1, state, manifest)
  # Scalars and vectors that the devices do not divide are copied once, not by
  # each device.
  found = training.save_bytes(PHASE, config, mesh)
  assert 0 <= found - sum(copied) < 0.01 * found
