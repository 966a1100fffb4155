"""The step: AdamW on the mean over tokens, however it is cut up."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import sharding, trees
from drope_jax.data.pipeline import DataConfig
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope
from drope_jax.train import loss, optimizer, step
from drope_jax.train import state as state_lib
from drope_jax.train.phases import TrainPhase
from drope_jax.train.teacher import Teacher

CONFIG = ModelConfig(
  vocab_size=32,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=8,
)
PEAK, WARMUP, STEPS = 0.04, 2, 40
# With eps far below the gradients, Adam's quotient turns rounding of the small
# ones into whole steps, and no two orders of summation would agree.
ADAMW = optimizer.AdamW(0.8, 0.9, eps=1e-3, weight_decay=0.1, clip_norm=0.25)
PHASE = TrainPhase(
  name="p",
  data=DataConfig(("store",)),
  batch_size=8,
  context_tokens=8,
  optimizer=ADAMW,
  schedule=optimizer.Cosine(PEAK, WARMUP),
  steps=STEPS,
)
FIRST = 5
COMPARED = 4
# Parameters of order 1 after four steps of 0.04: float32 rounding (6e-8), a
# few times over, and that of gradients (1e-7) over eps times the rate.
ATOL = 3e-6


@functools.cache
def _params(config=CONFIG):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: np.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
    transformer.param_shapes(config),
  )


def _batch():
  """Rows of uneven weight, so that no mean of means is the mean."""
  rng = np.random.default_rng(1)
  tokens = rng.integers(0, 32, (8, 9)).astype(np.int32)
  kept_B1 = np.array([1, 2, 2, 8] * 2)[:, None]
  return {
    "inputs_BS": tokens[:, :-1],
    "targets_BS": tokens[:, 1:],
    "segments_BS": np.repeat([[1] * 4 + [2] * 4], 8, 0).astype(np.int32),
    "weights_BS": (np.arange(8) < kept_B1).astype(np.float32),
  }


def _loss(params, batch):
  """Written anew: the mean of -log p over the tokens that count."""
  logits_BSV = transformer.forward(CONFIG, params, batch["inputs_BS"])
  log_p_BSV = jax.nn.log_softmax(logits_BSV)
  target_BS1 = batch["targets_BS"][..., None]
  log_p_BS = jnp.take_along_axis(log_p_BSV, target_BS1, -1)[..., 0]
  counted = batch["weights_BS"] > 0
  return -jnp.sum(log_p_BS, where=counted) / jnp.sum(counted)


@pytest.fixture(scope="module")
def wanted():
  """Parameters and metrics of AdamW in numpy."""
  gradient = jax.jit(jax.value_and_grad(_loss))
  flat = {k: v.astype(float) for k, v in trees.flatten(_params()).items()}
  m, v = ({path: 0.0 for path in flat} for _ in range(2))
  metrics = []
  for t in range(1, COMPARED + 1):
    params = {path: np.float32(p) for path, p in flat.items()}
    loss, grads = gradient(trees.unflatten(params), _batch())
    grads = {k: np.float64(g) for k, g in trees.flatten(grads).items()}
    norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
    size = math.sqrt(sum((p**2).sum() for p in flat.values()))
    done = (t - 1 - WARMUP) / (STEPS - WARMUP)
    rate = PEAK * min((t - 1) / WARMUP, (1 + math.cos(math.pi * done)) / 2)
    for path, g in grads.items():
      g = g * min(1.0, ADAMW.clip_norm / norm)
      m[path] = ADAMW.b1 * m[path] + (1 - ADAMW.b1) * g
      v[path] = ADAMW.b2 * v[path] + (1 - ADAMW.b2) * g**2
      m_hat = m[path] / (1 - ADAMW.b1**t)
      v_hat = v[path] / (1 - ADAMW.b2**t)
      direction = m_hat / (np.sqrt(v_hat) + ADAMW.eps)
      if path.endswith("kernel"):
        direction = direction + ADAMW.weight_decay * flat[path]
      flat[path] = flat[path] - rate * direction
    weight = _batch()["weights_BS"].sum()
    metrics.append(
      {"loss": loss, "grad_norm": norm, "lr": rate, "weight": weight}
      | {"perplexity": math.exp(loss), "param_norm": size}
      | {"skipped": 0, "skips_in_a_row": 0}
    )
  assert metrics[0]["grad_norm"] > 2 * ADAMW.clip_norm, "nothing is clipped"
  start = trees.flatten(_params())
  moved = {path: np.abs(flat[path] - start[path]).max() for path in flat}
  assert min(moved.values()) > 0.01, "a parameter does not move"
  return flat, metrics


@functools.cache
def _start(phase, mesh=None, config=CONFIG):
  """Returns the jitted step and the state it starts from; compiles once."""
  state = state_lib.init(phase, _params(config), FIRST)
  rate = phase.schedule.over(phase.num_steps, phase.step_tokens)
  take = step.make_step(
    config,
    phase,
    lambda step: rate(step - FIRST),
    "reference",
    mesh or _mesh(data=1),
    None if phase.teacher is None else (BASE, "reference"),
  )
  if mesh is None:
    return jax.jit(take), state
  where = sharding.like_params(mesh, state, _params(config))
  return (
    jax.jit(take, out_shardings=(where, None)),
    jax.device_put(state, where),
  )


def _run(phase, mesh=None, count=COMPARED, config=CONFIG):
  """Returns the state, and each step's metrics."""
  take, state = _start(phase, mesh, config)
  batch, metrics = _batch(), []
  teacher = None if phase.teacher is None else _teacher_params()
  if mesh is not None:
    batch = sharding.put_batch(mesh, batch)
    if teacher is not None:
      where = sharding.param_shardings(mesh, teacher)
      teacher = jax.device_put(teacher, where)
  for _ in range(count):
    state, line = take(state, batch, {}, teacher)
    metrics.append({name: float(value) for name, value in line.items()})
  return state, metrics


def _assert_same(state, metrics, want_params, want_metrics):
  for path, got in trees.flatten(state["params"]).items():
    np.testing.assert_allclose(got, want_params[path], atol=ATOL, err_msg=path)
  for got, want in zip(metrics, want_metrics, strict=True):
    assert got.keys() == want.keys()
    for name in want:
      np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-7)


def test_a_step_is_adamw_in_numpy_at_the_rate_it_logs(wanted):
  state, metrics = _run(PHASE)
  assert metrics[0]["lr"] == 0 and metrics[1]["lr"] == np.float32(PEAK / 2)
  _assert_same(state, metrics, *wanted)
  assert int(state["step"]) == FIRST + COMPARED


def test_a_step_is_compiled_with_the_options_given():
  mesh = _mesh(data=1)
  take = step.jitted(
    CONFIG,
    PHASE,
    lambda _: PEAK,
    "reference",
    mesh,
    options={"xla_cpu_enable_fast_math": "perhaps"},
  )
  state = state_lib.abstract(PHASE, CONFIG, mesh)
  with pytest.raises(jax.errors.JaxRuntimeError, match="perhaps"):
    take.lower(state, _batch()).compile()


def test_microbatches_are_weighed_by_their_tokens(wanted):
  batch = _batch()
  by_row = [_row_loss(batch, slice(i, None, 4)) for i in range(4)]
  assert abs(np.mean(by_row) - float(wanted[1][0]["loss"])) > 0.01
  phase = dataclasses.replace(
    PHASE,
    accumulation=4,
    loss_chunk_tokens=5,
    remat="save_qkv_proj",
    unroll=True,
    log_max_logit=True,
  )
  state, metrics = _run(phase)
  _, captured = transformer.hidden(
    CONFIG, _params(), _batch()["inputs_BS"], capture=("max_logit",)
  )
  largest = float(captured["max_logit"].max())
  assert metrics[0]["max_logit"] == pytest.approx(largest, rel=1e-5)
  for line in metrics:
    del line["max_logit"]
  _assert_same(state, metrics, *wanted)


def test_layers_are_unrolled_on_a_cpu_unless_the_phase_says_not():
  def loops(**fields):
    phase = dataclasses.replace(PHASE, **fields)
    take, state = _start(phase)
    return take.lower(state, _batch()).as_text().count("stablehlo.while")

  assert loops() == loops(unroll=True) == loops(unroll=False) - 2


def _row_loss(batch, rows):
  part = {name: value[rows] for name, value in batch.items()}
  return float(jax.jit(_loss)(_params(), part))


def _mesh(**axes):
  config = sharding.MeshConfig(**{"fsdp": 1} | axes)
  return sharding.make_mesh(config, jax.devices()[: math.prod(axes.values())])


def test_a_step_sharded_by_data_fsdp_and_tensor_is_that_of_one_device(wanted):
  state, metrics = _run(PHASE, _mesh(data=2, fsdp=2, tensor=2))
  kernel = state["params"]["layers"]["mlp"]["up"]["kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  _assert_same(state, metrics, *wanted)


NORMED = dataclasses.replace(
  CONFIG, num_kv_heads=4, qk_norm="qk", qkv_bias=True
)


def test_a_step_sharded_by_fsdp_tensor_and_context_is_that_of_one_device():
  want, want_metrics = _run(PHASE, config=NORMED)
  mesh = _mesh(fsdp=2, tensor=2, context=2)
  state, metrics = _run(PHASE, mesh, config=NORMED)
  kernel = state["params"]["layers"]["attention"]["q"]["kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  start = trees.flatten(_params(NORMED))
  want = trees.flatten(want["params"])
  moved = {path: np.abs(want[path] - start[path]).max() for path in want}
  # What softmax does not see: of all keys the same.
  del moved["layers/attention/k/bias"]
  assert min(moved.values()) > 0.01, "a parameter does not move"
  _assert_same(state, metrics, want, want_metrics)


@pytest.mark.parametrize("ways", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_joint_qk_norm_split_by_heads_is_that_of_one_device(ways):
  params, batch, mesh = _params(NORMED), _batch(), _mesh(tensor=ways)
  tokens_BS = batch["inputs_BS"]
  q_NBSHD, _ = transformer.qk_projections(NORMED, params, tokens_BS)
  norms_R = np.linalg.norm(np.split(q_NBSHD, ways, 3), axis=(-2, -1))
  assert np.ptp(norms_R, 0).mean() > 0.1 * norms_R.mean(), "parts are alike"

  def results(params):
    def loss(params):
      logits_BSV = transformer.forward(NORMED, params, tokens_BS)
      return jnp.mean(jnp.sin(logits_BSV)), logits_BSV

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  split = jax.device_put(params, sharding.param_shardings(mesh, params))
  (got, got_BSV), (want, want_BSV) = results(split), results(params)
  # A few times float32's rounding, of logits of order 1 and the gradients'
  # largest element.
  np.testing.assert_allclose(got_BSV, want_BSV, atol=5e-6)
  for path, leaf in trees.flatten(want).items():
    limit = 1e-6 * max(np.abs(leaf).max(), 1e-3)
    np.testing.assert_allclose(
      trees.flatten(got)[path], leaf, rtol=0, atol=limit, err_msg=path
    )


def test_muon_sharded_by_fsdp_and_context_is_that_of_one_device():
  phase = dataclasses.replace(
    PHASE,
    optimizer=optimizer.Muon(clip_norm=0.25),
    schedule=optimizer.Constant(PEAK),
  )
  want, want_metrics = _run(phase, count=1)
  state, metrics = _run(phase, _mesh(fsdp=2, context=2), count=1)
  moments = jax.tree.leaves(state["opt_state"])
  assert not all(x.sharding.is_fully_replicated for x in moments)
  flat = trees.flatten(want["params"])
  moved = flat["layers/mlp/up/kernel"]
  moved = moved - trees.flatten(_params())["layers/mlp/up/kernel"]
  assert np.abs(moved).max() > 0.01
  _assert_same(state, metrics, flat, want_metrics)


def test_bfloat16_computes_alone_and_parameters_stay_float32(wanted):
  phase = dataclasses.replace(PHASE, compute_dtype="bfloat16")
  state, (first, *_) = _run(phase, count=2)
  floats = {
    leaf.dtype
    for leaf in jax.tree.leaves(state)
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  }
  assert floats == {np.dtype(np.float32)}
  # Eight bits of mantissa, over 2 layers and the mean of 26 tokens.
  want = wanted[1][0]
  np.testing.assert_allclose(first["loss"], want["loss"], rtol=1e-2)
  np.testing.assert_allclose(first["grad_norm"], want["grad_norm"], rtol=5e-2)
  assert abs(first["loss"] - want["loss"]) > 1e-5, "it is float32 after all"


@pytest.mark.parametrize("document_mask", [False, True])
def test_segments_count_where_the_data_masks_documents(document_mask):
  data = dataclasses.replace(PHASE.data, document_mask=document_mask)
  take, state = _start(dataclasses.replace(PHASE, data=data))
  batch = _batch()
  batch["weights_BS"] = (batch["segments_BS"] == 2).astype(np.float32)
  other = dict(batch, inputs_BS=batch["inputs_BS"].copy())
  other["inputs_BS"][:, :4] += 1
  other["inputs_BS"] %= 32
  losses = [float(take(state, b)[1]["loss"]) for b in (batch, other)]
  # What the second document is predicted from.
  assert (losses[0] == losses[1]) == document_mask


def test_a_step_that_is_not_finite_changes_nothing_but_counts(wanted):
  take, state = _start(PHASE)
  for _ in range(2):
    state, _ = take(state, _batch())
  poisoned = _batch()
  poisoned["weights_BS"][3, 0] = np.nan
  after, metrics = take(state, poisoned)
  assert np.isnan(metrics["loss"]) and np.isnan(metrics["grad_norm"])
  for name in ("params", "opt_state"):
    for old, new in zip(
      *map(jax.tree.leaves, (state[name], after[name])), strict=True
    ):
      np.testing.assert_array_equal(old, new)
  assert int(after["step"]) == int(state["step"]) + 1
  _, metrics = take(after, _batch())
  assert (metrics["skipped"], metrics["skips_in_a_row"]) == (1, 1)
  assert np.isfinite(metrics["loss"])


def test_moments_are_kept_or_refused():
  normed = dataclasses.replace(CONFIG, qk_norm="qk")
  plain, gained = (
    state_lib.init(PHASE, jax.tree.map(np.ones_like, params), 0)["opt_state"]
    for params in (_params(), _params(normed))
  )
  used, more = (jax.tree.map(lambda x: x + 7, x) for x in (plain, gained))
  for before in (used, more):
    kept = state_lib.keep_moments(plain, before)
    assert jax.tree.structure(kept) == jax.tree.structure(plain)
    assert {float(x.max()) for x in jax.tree.leaves(kept)} == {7.0}
  # Fresh moments beside an old count would make steps that are too long.
  with pytest.raises(ValueError, match=r"got none and then .* at .*k_norm"):
    state_lib.keep_moments(gained, used)
  wider = dataclasses.replace(CONFIG, mlp_width=48)
  other = state_lib.init(PHASE, _params(wider), 0)
  with pytest.raises(ValueError, match="parameters of one shape, got"):
    state_lib.keep_moments(other["opt_state"], used)


BASE = dataclasses.replace(CONFIG, num_layers=1)
DROPPED = dataclasses.replace(BASE, positional=Nope())
TAUGHT = dataclasses.replace(
  PHASE,
  data=dataclasses.replace(PHASE.data, document_mask=True),
  teacher=Teacher(weight=0.75, outputs_weight=0.5),
  accumulation=2,
)


@functools.cache
def _teacher_params():
  """Unlike the student's, so that the two are apart from the start."""
  return jax.tree.map(lambda x: 2 * x, _params(BASE))


@functools.cache
def _first_taught_metrics():
  """Written anew: of the first step, from all logits of both models."""
  batch = _batch()
  weights_BS = batch["weights_BS"] / batch["weights_BS"].sum()

  def read(config, params):
    x_BSM, captured = transformer.hidden(
      config,
      params,
      batch["inputs_BS"],
      segments_BS=batch["segments_BS"],
      capture=("outputs",),
    )
    logits_BSV = transformer.unembed(config, params, x_BSM)
    return jax.nn.log_softmax(logits_BSV), captured["outputs"]

  def objective(params):
    log_q_BSV, taught_NBSM = read(BASE, _teacher_params())
    log_p_BSV, outputs_NBSM = read(DROPPED, params)
    kl_BS = jnp.sum(jnp.exp(log_q_BSV) * (log_q_BSV - log_p_BSV), -1)
    target_BS1 = batch["targets_BS"][..., None]
    nats_BS = -jnp.take_along_axis(log_p_BSV, target_BS1, -1)[..., 0]
    kl, nats = (jnp.sum(weights_BS * x_BS) for x_BS in (kl_BS, nats_BS))
    distance = jnp.sum(
      weights_BS
      * jnp.linalg.norm(outputs_NBSM - taught_NBSM, axis=-1) ** 2
      / jnp.linalg.norm(taught_NBSM, axis=-1) ** 2
      / len(taught_NBSM)
    )
    sums = {"kl": kl, "loss": nats, "distance": distance}
    return 0.75 * kl + 0.25 * nats + 0.5 * distance, sums

  gradient = jax.jit(jax.grad(objective, has_aux=True))
  gradients, sums = gradient(_params(DROPPED))
  norms = [jnp.linalg.norm(leaf) for leaf in jax.tree.leaves(gradients)]
  return sums | {"grad_norm": np.linalg.norm(norms)}


def test_the_model_under_its_old_positions_teaches():
  _, metrics = _run(TAUGHT, count=STEPS, config=DROPPED)
  _assert_taught(metrics[0])
  assert metrics[-1]["kl"] < metrics[0]["kl"] / 2


def test_a_teacher_sharded_by_data_fsdp_and_tensor_is_that_of_one_device():
  phase = dataclasses.replace(TAUGHT, accumulation=1)
  mesh = _mesh(data=2, fsdp=2, tensor=2)
  _, (metrics,) = _run(phase, mesh, count=1, config=DROPPED)
  _assert_taught(metrics)


def _assert_taught(metrics):
  for name, value in _first_taught_metrics().items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_the_phases_choices_reach_the_loss(monkeypatch):
  phase = dataclasses.replace(PHASE, z_loss=1e-4, loss_chunk_tokens=3)
  summed, chosen = loss.summed, []

  def record(*arrays, **options):
    chosen.append(options)
    return summed(*arrays, **options)

  monkeypatch.setattr(loss, "summed", record)
  mesh = _mesh(data=1)
  take = step.make_step(CONFIG, phase, lambda _: PEAK, "reference", mesh)
  state = state_lib.init(phase, _params(), FIRST)
  jax.eval_shape(take, state, _batch())
  options = {"chunk_tokens": 3, "z_loss": 1e-4, "teacher_weight": 0.0}
  assert chosen == [options | {"soft_cap": None}]


def test_the_loss_falls():
  _, metrics = _run(PHASE, count=STEPS)
  losses = [line["loss"] for line in metrics]
  assert losses[-1] < 0.3 * losses[0]
