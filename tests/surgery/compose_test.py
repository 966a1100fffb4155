"""A surgery as a value does what its parts do, in the right order."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.positional import Nope, PartialRope, Pattern, Rope, Yarn
from drope_jax.surgery import compose, qk_norm

TOKENS_BS = jnp.asarray(np.random.default_rng(0).integers(0, 32, (3, 16)))


def test_a_drop_a_norm_and_a_scale_take_effect(base, params):
  surgery = compose.Surgery(
    "all",
    qk_norm="k",
    qk_norm_scope="head",
    logit_scale=1.5,
    logit_scale_slope=0.2,
  )
  config, normed = compose.apply(surgery, base, params)
  assert config == dataclasses.replace(
    base,
    positional=Nope(),
    qk_norm="k",
    qk_norm_scope="head",
    logit_scale=1.5,
    logit_scale_slope=0.2,
  )
  gain = normed["layers"]["attention"]["k_norm"]["gain"]
  np.testing.assert_array_equal(gain, np.ones((2, 8)))


def test_none_leaves_positions_alone(base, params):
  surgery = compose.Surgery("none", logit_scale=2.0)
  config, same = compose.apply(surgery, base, params)
  assert config == dataclasses.replace(base, logit_scale=2.0)
  assert same is params


def test_gains_match_the_model_before_the_drop(base, params):
  surgery = compose.Surgery("all", qk_norm="qk", qk_norm_init="matched")
  _, normed = compose.apply(surgery, base, params, TOKENS_BS)
  gain = normed["layers"]["attention"]["q_norm"]["gain"]

  def gain_of(config):
    statistics = qk_norm.measure(config, params, TOKENS_BS)
    _, normed = qk_norm.add_qk_norm(
      config, params, init="matched", statistics=statistics
    )
    return normed["layers"]["attention"]["q_norm"]["gain"]

  np.testing.assert_array_equal(gain, gain_of(base))
  dropped = gain_of(dataclasses.replace(base, positional=Nope()))
  assert np.abs(gain - dropped)[1].max() > 1e-3, "order would not show"


def test_matched_gains_without_text_are_refused(base, params):
  surgery = compose.Surgery("none", qk_norm="qk", qk_norm_init="matched")
  assert surgery.needs_tokens
  with pytest.raises(ValueError, match="measured on text"):
    compose.apply(surgery, base, params)


@pytest.mark.parametrize("qk_norm", ["none", "qk"])
def test_params_of_another_config_are_refused(base, params, qk_norm):
  config = dataclasses.replace(base, num_kv_heads=2)
  message = r"attention/k/kernel must be \(2, 16, 16\), got \(2, 16, 8\)"
  with pytest.raises(ValueError, match=message):
    compose.apply(compose.Surgery("all", qk_norm=qk_norm), config, params)


@pytest.mark.parametrize(
  "fields",
  [
    {"drop": "none"},
    {"drop": ()},
    {"drop": "some"},
    {"drop": (0.5,)},
    {"qk_norm": "v"},
    {"qk_norm_scope": "channel"},
    {"qk_norm_init": "ones"},
    {"qk_norm_init": "matched"},
    {"qk_norm_scope": "head"},
    {"logit_scale": 0.0},
  ],
)
def test_a_surgery_that_cannot_be_is_refused(fields):
  with pytest.raises(ValueError, match="got"):
    compose.Surgery(**fields)


def test_theta_and_windows_come_before_the_drop(base, params):
  surgery = compose.Surgery(
    "all", keep_rotations=1.0, windows=((0, 4),), theta=10.0
  )
  config, same = compose.apply(surgery, base, params)
  # In 16 tokens theta 10 completes a rotation in two pairs, theta 100 in one.
  half = PartialRope(Rope(10.0), 2)
  assert config.positional == Pattern((half, half), (4, None))
  assert same is params


def test_theta_comes_before_a_scaling(base, params):
  surgery = compose.Surgery(
    "none", theta=10.0, scaling="yarn", scaling_factor=8.0
  )
  config, same = compose.apply(surgery, base, params)
  assert config.positional == Yarn(10.0, 8.0, 16)
  assert same is params


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"scaling": "rope", "scaling_factor": 2.0},
      "one of pi, ntk, yarn, longrope2, got 'rope'",
    ),
    ({"scaling": "yarn"}, "come together, got 'yarn' and None"),
    ({"scaling_factor": 2.0}, "come together, got None and 2.0"),
    (
      {"drop": "all", "scaling": "pi", "scaling_factor": 2.0},
      "positions that stay, got 'pi'",
    ),
  ],
)
def test_a_scaling_that_cannot_be_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    compose.Surgery(**({"drop": "none"} | fields))


@pytest.mark.parametrize(
  "kept",
  [
    {"keep_rotations": 1.0, "keep_pairs": 2},
    {"keep_rotations": 0.0},
    {"keep_rotations": math.nan},
    {"keep_pairs": -1},
  ],
)
def test_pairs_are_kept_in_one_way(kept):
  with pytest.raises(ValueError, match="two ways to say which pairs"):
    compose.Surgery(**kept)


def test_pairs_are_kept_of_a_drop():
  with pytest.raises(ValueError, match="got keep_pairs=2 with drop 'none'"):
    compose.Surgery("none", keep_pairs=2, theta=10.0)
