"""Schedules by hand, AdamW in numpy, Muon by its singular values."""

import math

import jax
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.train import optimizer

PEAK = 0.5
HALF = (1 + math.cos(math.pi / 4)) / 2


@pytest.mark.parametrize(
  "schedule,want",
  [
    (optimizer.Constant(PEAK), {0: 1, 5: 1, 11: 1}),
    (optimizer.Constant(PEAK, 4), {0: 0, 1: 0.25, 3: 0.75, 4: 1, 11: 1}),
    (
      optimizer.Cosine(PEAK, 4, final_ratio=0.2),
      {0: 0, 2: 0.5, 4: 1, 6: 0.2 + 0.8 * HALF, 8: 0.6, 12: 0.2},
    ),
    (
      optimizer.Cosine(PEAK, final_ratio=0.2, warmup_tokens=49),
      {0: 0, 2: 0.5, 4: 1, 6: 0.2 + 0.8 * HALF, 8: 0.6, 12: 0.2},
    ),
    (optimizer.Constant(PEAK, warmup_tokens=40), {0: 0, 1: 0.25, 4: 1, 11: 1}),
    (
      optimizer.WarmupStableDecay(PEAK, 2, final_ratio=0.2, decay_tokens=40),
      {0: 0, 1: 0.5, 2: 1, 8: 1, 9: 0.2 + 0.8 * HALF, 10: 0.6, 12: 0.2},
    ),
    (
      optimizer.WarmupStableDecay(PEAK, decay_tokens=1),
      {0: 1, 11: 1, 12: 0.1},
    ),
    (
      optimizer.WarmupStableDecay(PEAK, decay_steps=4, warmup_tokens=29),
      {0: 0, 1: 0.5, 2: 1, 8: 1, 12: 0.1},
    ),
    (optimizer.Cosine(PEAK), {0: 1, 3: HALF, 6: 0.5, 12: 0}),
    (
      optimizer.WarmupStableDecay(PEAK, 2, 4, final_ratio=0.2),
      {0: 0, 1: 0.5, 2: 1, 8: 1, 9: 0.2 + 0.8 * HALF, 10: 0.6, 12: 0.2},
    ),
    (
      optimizer.WarmupStableDecay(PEAK, 0, 12, final_ratio=0.0),
      {0: 1, 3: HALF, 6: 0.5, 12: 0},
    ),
  ],
)
def test_schedules_have_their_shape_over_twelve_steps(schedule, want):
  rate = schedule.over(12, step_tokens=10)
  got = [float(rate(step)) for step in want]
  # Float32 rounding of numbers below 1.
  np.testing.assert_allclose(got, [PEAK * w for w in want.values()], atol=1e-7)


@pytest.mark.parametrize(
  "schedule,needed",
  [
    (optimizer.Constant(1.0, 5), 5),
    (optimizer.Cosine(1.0, 4), 5),
    (optimizer.WarmupStableDecay(1.0, 2, 3), 5),
  ],
)
def test_a_schedule_longer_than_its_phase_is_refused(schedule, needed):
  with pytest.raises(ValueError, match=f"needs {needed} steps.*a phase of 4"):
    schedule.over(4, 10)
  assert float(schedule.over(needed, 10)(0)) >= 0


@pytest.mark.parametrize(
  "make",
  [
    lambda: optimizer.Constant(-1.0),
    lambda: optimizer.Constant(math.nan),
    lambda: optimizer.Constant(1.0, -1),
    lambda: optimizer.Cosine(1.0, -1),
    lambda: optimizer.Cosine(0.0),
    lambda: optimizer.WarmupStableDecay(1.0, 2, 0),
    lambda: optimizer.WarmupStableDecay(1.0, 2, 3, decay_tokens=30),
    lambda: optimizer.Constant(1.0, 1, warmup_tokens=10),
    lambda: optimizer.Cosine(1.0, warmup_tokens=-10),
    lambda: optimizer.WarmupStableDecay(-1.0, 2, 2),
    lambda: optimizer.Cosine(1.0, final_ratio=-0.1),
    lambda: optimizer.Cosine(1.0, final_ratio=1.1),
    lambda: optimizer.Cosine(1.0, final_ratio=math.nan),
    lambda: optimizer.WarmupStableDecay(1.0, 2, 2, final_ratio=-0.1),
  ],
)
def test_impossible_schedules_are_refused(make):
  with pytest.raises(ValueError, match="needs.*got.*"):
    make()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"clip_norm": 0.0}, "clip_norm must be above 0, got 0.0"),
    ({"clip_norm": -1.0}, "clip_norm must be above 0, got -1.0"),
    ({"b2": 1.0}, "b2 must be at least 0 and below 1, got 1.0"),
    ({"weight_decay": -0.1}, "weight_decay must be finite and at least 0"),
  ],
)
@pytest.mark.parametrize("kind", [optimizer.AdamW, optimizer.Muon])
def test_what_would_train_nothing_or_uphill_is_refused(kind, changes, message):
  with pytest.raises(ValueError, match=message):
    kind(**changes)


def test_without_a_norm_to_clip_to_gradients_stay():
  params, gradients = ({"head/kernel": np.full((2, 3), x)} for x in (1.0, 7.0))
  found = []
  for norm in (None, 1e9, 1e-3):
    transform = optimizer.AdamW(eps=1.0, clip_norm=norm).transform()
    updates, _ = transform.update(gradients, transform.init(params), params)
    found.append(updates["head/kernel"])
  np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
  assert np.abs(found[2]).max() < np.abs(found[0]).max() / 100


def _random(scale, seed):
  rng = np.random.default_rng(seed)
  shapes = {
    "embed/table": (12, 6),
    "embed/positions": (5, 6),
    "layers/attention/q/kernel": (2, 6, 8),
    "layers/attention/q/bias": (2, 8),
    "layers/mlp/down/kernel": (2, 8, 6),
    "layers/mlp_norm/gain": (2, 6),
    "head/kernel": (6, 12),
  }
  flat = {
    path: (scale * rng.normal(size=shape)).astype(np.float32)
    for path, shape in shapes.items()
  }
  return flat


def _updates(chosen, rate, params, gradients):
  """Returns each step's updates by path; parameters stay where they are."""
  transform = chosen.transform()
  params = trees.unflatten(params)
  state, steps = transform.init(params), []
  update = jax.jit(transform.update)
  for lr, gradient in zip(rate, gradients, strict=True):
    updates, state = update(trees.unflatten(gradient), state, params)
    steps.append(
      {k: lr * np.asarray(u) for k, u in trees.flatten(updates).items()}
    )
  return steps


def test_adamw_is_its_formula_and_clips_the_global_norm():
  b1, b2, eps, decay = 0.8, 0.9, 1e-3, 0.25
  chosen = optimizer.AdamW(b1, b2, eps, decay, clip_norm=2.0)
  rate = (0.5, 0.125)
  params = _random(1.0, 0)
  # The first is far above the norm of 2, the second below.
  gradients = [_random(1.0, 1), _random(0.02, 2)]
  norms = [
    math.sqrt(sum(np.sum(np.square(g, dtype=float)) for g in each.values()))
    for each in gradients
  ]
  assert norms[0] > 10 and norms[1] < 1
  got = _updates(chosen, rate, params, gradients)
  for path, p in params.items():
    m = v = np.zeros(p.shape)
    for t in (1, 2):
      g = gradients[t - 1][path] * min(1.0, 2.0 / norms[t - 1])
      m = b1 * m + (1 - b1) * g
      v = b2 * v + (1 - b2) * g**2
      direction = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
      if path.endswith("kernel"):
        direction = direction + decay * p
      want = -rate[t - 1] * direction
      # A few float32 roundings of numbers below 1.
      np.testing.assert_allclose(got[t - 1][path], want, atol=1e-6)


@pytest.fixture(scope="module")
def muon():
  """Gradients with singular values far apart, and two steps of Muon."""
  gradients = [_random(1e-3, 3), _random(1e-3, 4)]
  for each in gradients:
    for path in each:
      if path.startswith("layers") and path.endswith("kernel"):
        each[path][:, :, 0] *= 10
  chosen = optimizer.Muon(weight_decay=0.0)
  rate = (0.5, 0.125)
  return gradients, rate, _updates(chosen, rate, _random(1.0, 0), gradients)


def test_muon_moves_layer_kernels_by_orthogonal_matrices(muon):
  gradients, rate, steps = muon
  for path in ("layers/attention/q/kernel", "layers/mlp/down/kernel"):
    for layer in range(2):
      spread = np.linalg.svd(gradients[0][path][layer], compute_uv=False)
      assert spread[0] > 10 * spread[-1], "already orthogonal"
      for step, lr in zip(steps, rate, strict=True):
        update = step[path][layer] / (lr * 0.2 * math.sqrt(8))
        values = np.linalg.svd(update, compute_uv=False)
        # Five Newton-Schulz iterations with Jordan's coefficients bring
        # singular values to within [0.68, 1.13] of 1, not to 1.
        assert values.min() > 0.6 and values.max() < 1.2
  # Against the gradient, not along it.
  path = "layers/mlp/down/kernel"
  assert np.vdot(steps[0][path], gradients[0][path]) < 0


def test_muon_leaves_the_rest_to_adam(muon):
  gradients, (lr, _), (first, _) = muon
  b1 = optimizer.Muon().b1
  for path in ("embed/table", "head/kernel", "layers/attention/q/bias"):
    # Adam's first step is the gradient's sign; Nesterov's look ahead, which
    # optax gives to both halves, adds b1 / (1 + b1).
    want = -lr * (1 + b1 / (1 + b1)) * np.sign(gradients[0][path])
    np.testing.assert_allclose(first[path], want, rtol=1e-2)


def test_muon_clips_the_global_norm():
  gradients, rate = [_random(1.0, 1), _random(0.02, 2)], (0.5, 0.125)
  norm = math.sqrt(sum(np.sum(np.square(g)) for g in gradients[0].values()))
  assert norm > 10
  clipped = {path: g * (2 / norm) for path, g in gradients[0].items()}
  loose, tight = (optimizer.Muon(clip_norm=norm) for norm in (1e9, 2.0))
  start = _random(1.0, 0)
  got = _updates(tight, rate, start, gradients)[1]
  want = _updates(loose, rate, start, [clipped, gradients[1]])[1]
  unclipped = _updates(loose, rate, start, gradients)[1]
  for path, update in want.items():
    # Newton-Schulz magnifies float32 roundings.
    np.testing.assert_allclose(got[path], update, atol=1e-3, err_msg=path)
    assert np.abs(unclipped[path] - update).max() > 1e-2, path


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("kind", [optimizer.AdamW, optimizer.Muon])
def test_weight_decay_shrinks_kernels_and_by_choice_the_table(kind, embeddings):
  rate, decay = (0.5,), 0.25
  params, gradients = _random(1.0, 0), [_random(1e-3, 3)]
  decaying = kind(weight_decay=decay, decay_embeddings=embeddings)
  (with_decay,) = _updates(decaying, rate, params, gradients)
  (without,) = _updates(kind(), rate, params, gradients)
  shrunk = ("kernel", "table", "positions") if embeddings else ("kernel",)
  for path, p in params.items():
    want = -rate[0] * decay * p if path.endswith(shrunk) else np.zeros_like(p)
    # Float32 rounding of updates below 1.
    np.testing.assert_allclose(
      with_decay[path] - without[path], want, atol=1e-6, err_msg=path
    )


def test_muon_leaves_adapters_to_adamw():
  factors = {"lora_a": np.ones((2, 4, 3)), "lora_b": np.ones((2, 3, 5))}
  tree = {"layers": {"mlp": {"up": {"kernel": np.ones((2, 4, 5)), **factors}}}}
  state = optimizer.Muon().transform().init(tree)
  shapes = [np.shape(x) for x in jax.tree.leaves(state)]
  # Adam keeps two moments, Muon one.
  assert shapes.count((2, 4, 3)) == shapes.count((2, 3, 5)) == 2
  assert shapes.count((2, 4, 5)) == 1
