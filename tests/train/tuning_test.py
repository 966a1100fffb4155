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
from drope_jax.model.config import LayerGroup, ModelConfig
from drope_jax.train import optimizer, step, tuning
from drope_jax.train import state as state_lib
from drope_jax.train.lora import Lora
from drope_jax.train.phases import TrainPhase

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
RATE, DECAY = 0.04, 0.75
PHASE = TrainPhase(
  name="p",
  data=DataConfig(("store",)),
  batch_size=8,
  context_tokens=8,
  optimizer=optimizer.AdamW(eps=1e-3, weight_decay=0.1, clip_norm=0.25),
  schedule=optimizer.Constant(RATE),
  trainable=("layers[::2]/mlp/up", "*norm"),
  lora=Lora(("layers[1:]/attention/[qo]",), rank=3, alpha=6.0),
  ema_decay=DECAY,
  steps=4,
  unroll=False,
)
CHOSEN = {
  "layers/mlp/up/kernel": (0, 2),
  "final_norm/gain": None,
  "layers/attention_norm/gain": None,
  "layers/mlp_norm/gain": None,
}
ADAPTED = {
  "layers/attention/q/kernel": (1, 2),
  "layers/attention/o/kernel": (1, 2),
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


def _tuning(phase):
  return tuning.of(phase, transformer.param_shapes(CONFIG))


def _choose(*names):
  return _tuning(dataclasses.replace(PHASE, trainable=names, lora=None)).chosen


def test_names_are_paths_their_first_parts_and_ranges_of_layers():
  assert _tuning(PHASE).chosen == CHOSEN
  assert _tuning(PHASE).adapted == ADAPTED
  assert _choose("embed") == {"embed/table": None}
  assert _choose("layers[:2]/mlp/up", "layers[2]/mlp/up") == {
    "layers/mlp/up/kernel": None
  }
  everything = dataclasses.replace(PHASE, trainable=None, lora=None)
  assert _tuning(everything).base(_params()) == {}
  adapters = dataclasses.replace(PHASE, trainable=None)
  assert _tuning(adapters).chosen == {}


GROUPED = dataclasses.replace(
  CONFIG, layer_groups=(LayerGroup(1, mlp_width=8), LayerGroup(2))
)


def test_groups_count_their_layers_in_order_of_their_numbers():
  # As a tree sorts its keys: the group 10 comes before the group 2.
  flat = {f"layers/{i}/x": np.zeros(i + 1) for i in (0, 1, 10, *range(2, 10))}
  firsts, count = tuning._firsts(flat)
  assert [firsts[f"layers/{i}/"] for i in range(11)] == [
    i * (i + 1) // 2 for i in range(11)
  ]
  assert count == 66


def test_names_and_ranges_are_of_all_layers_whatever_their_groups():
  def choose(*names):
    phase = dataclasses.replace(PHASE, trainable=names, lora=None)
    return tuning.of(phase, transformer.param_shapes(GROUPED)).chosen

  assert choose("layers[1:]/mlp/up") == {"layers/1/mlp/up/kernel": None}
  assert choose("layers[::2]/mlp/up") == {
    "layers/0/mlp/up/kernel": None,
    "layers/1/mlp/up/kernel": (1,),
  }
  assert choose("layers/mlp/up", "layers/1/mlp/down") == {
    "layers/0/mlp/up/kernel": None,
    "layers/1/mlp/up/kernel": None,
    "layers/1/mlp/down/kernel": None,
  }
  with pytest.raises(ValueError, match=r"got 'layers\[3\]/mlp' for 3 of them"):
    choose("layers[3]/mlp")


def test_adapters_of_a_group_add_what_is_merged_into_its_kernels():
  phase = dataclasses.replace(PHASE, trainable=None, lora=PHASE.lora)
  rng = np.random.default_rng(0)

  def random(tree):
    return jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), tree)

  params = random(transformer.param_shapes(GROUPED))
  tuned = tuning.of(phase, params)
  assert tuned.adapted == {
    "layers/1/attention/q/kernel": None,
    "layers/1/attention/o/kernel": None,
  }
  trained = random(tuned.start(params, jax.random.key(0)))
  forward = jax.jit(transformer.forward, static_argnums=0)
  merged = forward(GROUPED, tuned.model(params, trained), _batch()["inputs_BS"])
  apart = forward(
    GROUPED,
    tuned.unmerged(params, trained),
    _batch()["inputs_BS"],
    adapters=tuned.adapters(trained),
  )
  # Float32 sums in another order, of logits of order ten.
  np.testing.assert_allclose(apart, merged, atol=1e-4 * np.abs(merged).max())


def test_frozen_weights_and_adapters_are_counted():
  shapes = {k: x.size for k, x in trees.flatten(_params()).items()}
  products = sum(n for path, n in shapes.items() if path.endswith("kernel"))
  assert _tuning(PHASE).weights(_params()) == {
    "frozen": products - 2 * 16 * 32,
    "adapters": 2 * 3 * (16 + 32 + 32 + 16),
  }


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


@pytest.mark.parametrize(
  "name,message",
  [
    ("head", "'head', which names none of layers/attention/k/kernel, layers/"),
    ("layers/attention/q/bias", "which names none of"),
    ("layers/mlp/up", "what has adapters is frozen, got layers/mlp/up/kernel"),
  ],
)
def test_adapters_are_of_frozen_kernels_of_layers(name, message):
  phase = dataclasses.replace(PHASE, lora=Lora((name,)))
  with pytest.raises(ValueError, match=f"^p: .*{message}"):
    _tuning(phase)


def _reference(trained):
  """Written anew: the model's parameters from what is trained, by path."""
  flat = {path: jnp.asarray(x) for path, x in trees.flatten(_params()).items()}
  for path, layers in CHOSEN.items():
    index = slice(None) if layers is None else np.array(layers)
    flat[path] = flat[path].at[index].set(trained[path])
  for path, layers in ADAPTED.items():
    folder = path.removesuffix("kernel")
    a, b = trained[f"{folder}lora_a"], trained[f"{folder}lora_b"]
    flat[path] = flat[path].at[np.array(layers)].add(6.0 / 3 * (a @ b))
  return flat


@pytest.fixture(scope="module")
def steps():
  """The state after each of three steps on eight devices, and a base.

  The second step is skipped, as a weight of its batch is no number.
  """
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=2, fsdp=2, tensor=2), jax.devices()
  )
  tuned = _tuning(PHASE)
  base = jax.device_put(
    tuned.base(_params()),
    sharding.param_shardings(mesh, tuned.base(_params())),
  )
  take = step.jitted(
    CONFIG, PHASE, lambda _: RATE, "reference", mesh, options=QUICKLY
  )
  state = state_lib.start(PHASE, CONFIG, mesh, _params(), 0, seed=3)
  states = [jax.device_get(state)]
  for poison in (0.0, np.nan, 0.0):
    batch = _batch()
    batch["weights_BS"][0, 0] += poison
    state, _ = take(state, sharding.put_batch(mesh, batch), base)
    states.append(jax.device_get(state))
  lora_a = state["params"]["layers"]["attention"]["q"]["lora_a"]
  assert lora_a.sharding.spec == jax.P(None, "fsdp", None)
  return states, state, base


@pytest.mark.parametrize("trainable", [("*",), PHASE.trainable])
def test_of_what_is_trained_wholly_there_is_one_copy(trainable):
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2), jax.devices()[:2])
  params = jax.device_put(_params(), sharding.param_shardings(mesh, _params()))
  phase = dataclasses.replace(PHASE, trainable=trainable, lora=None)
  state_lib.start(phase, CONFIG, mesh, params, 0)
  deleted = {p for p, x in trees.flatten(params).items() if x.is_deleted()}
  assert deleted == tuning.of(phase, params).replaced(params).keys()
  assert "final_norm/gain" in deleted
  assert ("embed/table" in deleted) == (trainable == ("*",))
  # Two of its three layers are trained.
  assert ("layers/mlp/up/kernel" in deleted) == (trainable == ("*",))


def test_what_is_trained_moves_as_by_its_gradient_through_merged_weights(steps):
  states, *_ = steps
  transform = PHASE.optimizer.transform()
  gradient = jax.jit(
    jax.grad(lambda trained: _loss(trees.unflatten(_reference(trained)))),
    compiler_options=QUICKLY,
  )
  want = trees.flatten(states[0]["params"])
  assert all(want[path].any() for path in want if path.endswith("lora_a"))
  moments = transform.init(trees.unflatten(want))
  for index in (1, 3):
    updates, moments = jax.jit(transform.update)(
      trees.unflatten(gradient(want)), moments, trees.unflatten(want)
    )
    updates = trees.flatten(updates)
    want = {path: x + RATE * updates[path] for path, x in want.items()}
    got = trees.flatten(states[index]["params"])
    assert got.keys() == want.keys()
    for path, x in got.items():
      np.testing.assert_allclose(x, want[path], atol=ATOL, err_msg=path)
  start = trees.flatten(states[0]["params"])
  moved = {path: np.abs(x - start[path]).max() for path, x in got.items()}
  assert min(moved.values()) > 0.005, "something does not move"
  kept = trees.flatten(optax.tree.get(states[3]["opt_state"], "mu"))
  assert kept.keys() == start.keys()
  assert all(x.shape == start[path].shape for path, x in kept.items())


def test_a_checkpoint_is_merged_and_of_the_averages_and_frozen_else(steps):
  states, state, base = steps
  tuned = _tuning(PHASE)
  averages = jax.tree.map(np.zeros_like, states[0]["params"])
  for index in (1, 3):
    averages = jax.tree.map(
      lambda mean, x: DECAY * mean + (1 - DECAY) * x,
      averages,
      states[index]["params"],
    )
  averages = jax.tree.map(lambda x: x / (1 - DECAY**2), averages)
  assert int(states[2]["average"].count) == 1, "a skipped step counts"
  want = _reference(trees.flatten(averages))
  got = trees.flatten(tuned.model(base, state_lib.averaged(PHASE, state)))
  assert got.keys() == want.keys()
  before = trees.flatten(_params())
  for path, x in got.items():
    # Means and products of three, rounded to float32.
    np.testing.assert_allclose(x, want[path], atol=1e-6, err_msg=path)
    trained = {**CHOSEN, **ADAPTED}.get(path, ())
    if trained is not None:
      frozen = [i for i in range(len(x)) if i not in trained]
      assert frozen
      np.testing.assert_array_equal(np.asarray(x)[frozen], before[path][frozen])
  first = state_lib.averaged(PHASE, states[0])
  jax.tree.map(np.testing.assert_array_equal, first, states[0]["params"])


def test_the_frozen_are_kept_in_their_dtype_and_have_no_gradients():
  phase = dataclasses.replace(
    PHASE,
    trainable=("layers/attention/[qk]",),
    lora=None,
    frozen_dtype="bfloat16",
    compute_dtype="bfloat16",
  )
  mesh = sharding.make_mesh("single", jax.devices()[:1])
  state = state_lib.abstract(phase, CONFIG, mesh)
  base = state_lib.abstract_base(phase, CONFIG, mesh)
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
  state = state_lib.abstract(everything, CONFIG, mesh)
  assert gradients(everything, state, batch) > 0


@pytest.mark.parametrize(
  "fields,message",
  [
    ({"trainable": ()}, "must name parameters, got"),
    ({"trainable": None, "lora": None}, "frozen parameters, got 'bfloat16'"),
    ({"optimizer_start": "kept"}, "adapters are new in each phase"),
    ({"ema_decay": 1.0}, "ema_decay must be above 0 and below 1, got 1.0"),
    ({"ema_decay": 1 - 1e-9}, "got 0.999999999, which is 1.0 in float32"),
    ({"frozen_dtype": "float16"}, "TrainPhase.frozen_dtype must be one of"),
  ],
)
def test_a_phase_that_contradicts_itself_is_refused(fields, message):
  with pytest.raises(ValueError, match=f"^p: .*{message}"):
    dataclasses.replace(PHASE, **{"frozen_dtype": "bfloat16"} | fields)
