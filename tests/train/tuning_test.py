"""What is trained is named; all else has no gradient, and keeps its bits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from drope_jax import sharding, trees
from drope_jax.data.pipeline import DataConfig
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.train import optimizer, step, tuning
from drope_jax.train.recipe import TrainPhase

CONFIG = ModelConfig(
  vocab_size=32,
  num_layers=3,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=8,
)
RATE = 0.04
PHASE = TrainPhase(
  name="p",
  data=DataConfig(("store",)),
  batch_size=8,
  context_tokens=8,
  optimizer=optimizer.AdamW(eps=1e-3, weight_decay=0.1, clip_norm=0.25),
  schedule=optimizer.Constant(RATE),
  trainable=("layers[-1]/attention/[qk]", "layers[::2]/mlp/up", "*norm"),
  steps=4,
  unroll=False,
)
CHOSEN = {
  "layers/attention/k/kernel": (2,),
  "layers/attention/q/kernel": (2,),
  "layers/mlp/up/kernel": (0, 2),
  "final_norm/gain": None,
  "layers/attention_norm/gain": None,
  "layers/mlp_norm/gain": None,
}
QUICKLY = {"xla_backend_optimization_level": 0}
"""Options to compile with."""
# Parameters of order 1 after two steps of 0.04: float32 rounding (6e-8), a few
# times over, and that of gradients (1e-7) over eps times the rate.
ATOL = 3e-6


@functools.cache
def _params():
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: np.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
    transformer.param_shapes(CONFIG),
  )


def _batch():
  tokens = np.random.default_rng(1).integers(0, 32, (8, 9)).astype(np.int32)
  return {
    "inputs_BS": tokens[:, :-1],
    "targets_BS": tokens[:, 1:],
    "segments_BS": np.ones((8, 8), np.int32),
    "weights_BS": np.ones((8, 8), np.float32),
  }


def _loss(params):
  logits_BSV = transformer.forward(CONFIG, params, _batch()["inputs_BS"])
  log_p_BSV = jax.nn.log_softmax(logits_BSV)
  target_BS1 = _batch()["targets_BS"][..., None]
  return -jnp.take_along_axis(log_p_BSV, target_BS1, -1).mean()


def _choose(*names):
  phase = dataclasses.replace(PHASE, trainable=names)
  return tuning.of(phase, transformer.param_shapes(CONFIG)).chosen


def _run(phase, mesh, count=2):
  """Returns the phase's tuning, its base, and the state after some steps."""
  tuned = tuning.of(phase, _params())
  abstract = step.abstract_state(phase, CONFIG, mesh)
  base = jax.device_put(
    tuned.base(_params()),
    sharding.param_shardings(mesh, tuned.base(_params())),
  )
  take = step.jitted(
    step.make_step(CONFIG, phase, lambda _: RATE, "reference", mesh),
    abstract,
    QUICKLY,
  )
  start = jax.jit(
    lambda params: step.init_state(phase, params, 0),
    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
  )
  state = start(_params())
  for _ in range(count):
    state, _ = take(state, sharding.put_batch(mesh, _batch()), base)
  return tuned, base, state


def test_names_are_paths_their_first_parts_and_ranges_of_layers():
  assert _choose(*PHASE.trainable) == CHOSEN
  assert _choose("embed") == {"embed/table": None}
  assert _choose("layers[:2]/mlp/up", "layers[2]/mlp/up") == {
    "layers/mlp/up/kernel": None
  }
  everything = dataclasses.replace(PHASE, trainable=None)
  shapes = transformer.param_shapes(CONFIG)
  assert tuning.of(everything, shapes).base(_params()) == {}


@pytest.mark.parametrize(
  "name,message",
  [
    ("attention/q", "names none of embed/table, final_norm/gain, head/kernel"),
    ("layers/attention/bias", "'layers/attention/bias', which names none of"),
    ("layers[3]/mlp", r"layers that there are, got 'layers\[3\]/mlp' for 3"),
    ("layers[3:]", "layers that there are"),
  ],
)
def test_a_name_of_nothing_is_refused(name, message):
  with pytest.raises(ValueError, match=f"^p: .*{message}"):
    _choose("embed", name)


def test_what_is_named_moves_by_its_own_gradient_and_all_else_not_at_all():
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=2, fsdp=2, tensor=2), jax.devices()
  )
  tuned, base, state = _run(PHASE, mesh)
  got = trees.flatten(tuned.model(base, state["params"]))

  def selected(params):
    flat = trees.flatten(params)
    return {
      path: np.asarray(flat[path])[slice(None) if layers is None else [*layers]]
      for path, layers in CHOSEN.items()
    }

  transform = PHASE.optimizer.transform()
  gradient = jax.jit(jax.grad(_loss), compiler_options=QUICKLY)
  want = {path: x.copy() for path, x in trees.flatten(_params()).items()}
  moments = transform.init(trees.unflatten(selected(_params())))
  for _ in range(2):
    params = trees.unflatten(want)
    updates, moments = transform.update(
      trees.unflatten(selected(gradient(params))),
      moments,
      trees.unflatten(selected(params)),
    )
    for path, update in trees.flatten(updates).items():
      layers = CHOSEN[path]
      index = slice(None) if layers is None else [*layers]
      want[path][index] += RATE * update
  before = trees.flatten(_params())
  for path, x in got.items():
    layers = CHOSEN.get(path, ())
    moved = np.abs(np.asarray(x) - before[path])
    if layers is not None:
      frozen = np.delete(moved, layers, 0)
      assert frozen.size and not frozen.any(), path
      moved = moved[list(layers)]
    assert moved.size == 0 or moved.max() > 0.01, path
    np.testing.assert_allclose(x, want[path], atol=ATOL, err_msg=path)
  kept = optax.tree.get(state["opt_state"], "mu")
  shapes = {path: x.shape for path, x in trees.flatten(kept).items()}
  assert shapes == {path: x.shape for path, x in selected(_params()).items()}


def test_the_frozen_are_kept_in_their_dtype_and_have_no_gradients():
  phase = dataclasses.replace(
    PHASE,
    trainable=("layers/attention/[qk]",),
    frozen_dtype="bfloat16",
    compute_dtype="bfloat16",
  )
  mesh = sharding.make_mesh("single", jax.devices()[:1])
  state = step.abstract_state(phase, CONFIG, mesh)
  base = step.abstract_base(phase, CONFIG, mesh)
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(base)} == {"bfloat16"}
  batch = jax.tree.map(jnp.asarray, _batch())

  def gradients(phase, *state_and_base):
    take = step.make_step(CONFIG, phase, lambda _: RATE, "reference", mesh)
    text = jax.jit(take).lower(*state_and_base).as_text()
    V, M = CONFIG.vocab_size, CONFIG.width
    return text.count(f"-> tensor<{M}x{V}xf32>")

  assert gradients(phase, state, batch, base) == 0
  everything = dataclasses.replace(
    phase, trainable=None, frozen_dtype="float32"
  )
  state = step.abstract_state(everything, CONFIG, mesh)
  assert gradients(everything, state, batch) > 0


@pytest.mark.parametrize(
  "fields,message",
  [
    ({"trainable": ()}, "must name parameters, got"),
    ({"trainable": None, "frozen_dtype": "bfloat16"}, "frozen parameters, got"),
    ({"frozen_dtype": "float16"}, "TrainPhase.frozen_dtype must be one of"),
  ],
)
def test_a_phase_that_trains_nothing_is_refused(fields, message):
  with pytest.raises(ValueError, match=f"^p: .*{message}"):
    dataclasses.replace(PHASE, **fields)
