"""Each filter keeps what transformers keeps, and draws follow what is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from drope_jax.inference import choice

LOGITS_BV = 3 * np.random.default_rng(0).normal(size=(4, 200)).astype(
  np.float32
)
IDS_BS = np.random.default_rng(1).integers(0, 200, (4, 60))


@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.6},
    {"top_p": 1e-6},
    {"top_k": 7, "top_p": 0.6},  # The 7 have less than 0.6 of the whole.
    {"min_p": 0.05},
    {"min_p": 0.0},
    {"repetition_penalty": 1.5},
    {
      "top_k": 40,
      "top_p": 0.8,
      "min_p": 0.01,
      "repetition_penalty": 1.3,
      "temperature": 0.5,
    },
  ],
  ids=str,
)
def test_the_logits_kept_are_those_of_transformers(settings):
  settings = {"temperature": 2.0, **settings}
  warpers = transformers.LogitsProcessorList()
  for name, kind in (
    ("repetition_penalty", transformers.RepetitionPenaltyLogitsProcessor),
    ("temperature", transformers.TemperatureLogitsWarper),
    ("top_k", transformers.TopKLogitsWarper),
    ("top_p", transformers.TopPLogitsWarper),
    ("min_p", transformers.MinPLogitsWarper),
  ):
    if name in settings:
      warpers.append(kind(settings[name]))
  want_BV = warpers(torch.tensor(IDS_BS), torch.tensor(LOGITS_BV)).numpy()

  filters = choice.Sampling(**settings).arrays()
  logits_BV = jnp.asarray(LOGITS_BV)
  if filters.repetition_penalty is not None:
    seen_BV = np.zeros(LOGITS_BV.shape, bool)
    np.put_along_axis(seen_BV, IDS_BS, True, axis=1)
    logits_BV = choice.penalize(logits_BV, seen_BV, filters.repetition_penalty)
  got_BV = choice.apply_filters(
    choice.apply_temperature(logits_BV, filters.temperature), filters
  )
  # Ours are shifted: the largest is 0.
  want_BV = want_BV - want_BV.max(axis=1, keepdims=True)
  np.testing.assert_allclose(got_BV, want_BV, atol=1e-5)
  kept = np.isfinite(want_BV).sum()
  assert kept == want_BV.size or settings.keys() & {"top_k", "top_p", "min_p"}


def test_choosing_draws_only_what_is_kept():
  filters = choice.Sampling(temperature=5.0, top_k=3).arrays()
  keys_B = jax.random.split(jax.random.key(0), 400)
  tiled_BV = jnp.tile(LOGITS_BV[:1], (400, 1))
  ids_B = choice.choose(tiled_BV, filters, None, keys_B)
  assert set(ids_B.tolist()) == set(np.argsort(LOGITS_BV[0])[-3:].tolist())


def test_temperature_zero_is_the_largest_and_the_rest_is_moot():
  filters = choice.Sampling(top_k=50, top_p=0.9).arrays()
  keys_B = jax.random.split(jax.random.key(0), 4)
  ids_B = choice.choose(jnp.asarray(LOGITS_BV), filters, None, keys_B)
  np.testing.assert_array_equal(ids_B, LOGITS_BV.argmax(axis=1))


@pytest.mark.parametrize("num_ids", [1, 128, 300])
def test_the_first_of_the_largest_logits_is_found(num_ids):
  logits_BV = np.random.default_rng(0).integers(0, 9, (8, num_ids)) - 20.0
  logits_BV[1] = -np.inf
  logits_BV[2, num_ids // 2] = np.nan
  got_B = choice.largest(jnp.asarray(logits_BV, jnp.float32))
  np.testing.assert_array_equal(got_B, logits_BV.argmax(axis=1))


def test_draws_follow_the_softmax():
  draws, V = 4096, 300  # Ids of three blocks, the last of them part.
  logits_V = 2 * np.random.default_rng(0).normal(size=V).astype(np.float32)
  keys_B = jax.random.split(jax.random.key(0), draws)
  logits_BV = choice.apply_temperature(jnp.tile(2 * logits_V, (draws, 1)), 2.0)
  ids_B = choice.draw(logits_BV, keys_B)
  p_V = np.exp(logits_V) / np.exp(logits_V).sum()
  # Up to 30 groups of ids, across the blocks; one likely id may fill several.
  order = np.argsort(np.arange(V) % 10, kind="stable")
  group_V = np.empty(V, int)
  group_V[order] = np.minimum(30 * np.cumsum(p_V[order]), 29)
  want = draws * np.bincount(group_V, p_V, 30)
  got = np.bincount(group_V[np.asarray(ids_B)], minlength=30)
  filled = want > 0
  assert filled.sum() > 20 and got[~filled].sum() == 0
  # The 99.9% quantile of chi squared with 29 degrees of freedom.
  assert np.sum((got - want)[filled] ** 2 / want[filled]) < 58.3


@pytest.mark.parametrize(
  "settings",
  [
    {"temperature": -1.0},
    {"temperature": float("nan")},
    {"top_k": 0},
    {"top_p": 0.0},
    {"top_p": 1.5},
    {"min_p": -0.1},
    {"repetition_penalty": 0.0},
  ],
  ids=str,
)
def test_settings_out_of_range_are_refused(settings):
  ((name, value),) = settings.items()
  with pytest.raises(
    ValueError, match=f"Sampling.{name} must be .*got {value}"
  ):
    choice.Sampling(**settings)
