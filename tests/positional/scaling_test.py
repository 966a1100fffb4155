"""Scaled frequencies against transformers' own, and what follows length."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention
from drope_jax.positional import (
  CriticalNtk,
  Dynamic,
  Llama3Rope,
  Nope,
  NtkAware,
  PositionInterpolation,
  Rope,
  Yarn,
  scaling,
)

SHAPES = [  # head_dim, theta, factor, trained tokens
  (16, 1e4, 2.0, 512),
  (64, 1e4, 4.0, 2048),
  (64, 1e5, 8.0, 8192),
  (128, 5e5, 32.0, 4096),
]


def _theirs(kind, head_dim, theta, trained_tokens, seq_len=None, **parameters):
  """transformers' frequencies and attention factor."""
  transformers = pytest.importorskip("transformers")
  rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
  if kind in ("yarn", "llama3"):
    parameters["original_max_position_embeddings"] = trained_tokens
  config = transformers.LlamaConfig(
    hidden_size=4 * head_dim,
    num_attention_heads=4,
    head_dim=head_dim,
    max_position_embeddings=trained_tokens,
    rope_parameters={"rope_type": kind, "rope_theta": theta, **parameters},
  )
  freq_F, attention_factor = rope_utils.ROPE_INIT_FUNCTIONS[kind](
    config, "cpu", seq_len=seq_len
  )
  return freq_F.numpy(), attention_factor


def _assert_same(scheme, head_dim, theirs):
  freq_F, attention_factor = theirs
  ours_F = scheme.frequencies(head_dim)
  np.testing.assert_allclose(ours_F, freq_F, rtol=1e-6)
  assert scheme.attention_factor == pytest.approx(attention_factor, rel=1e-12)
  plain_F = Rope(scheme.theta).frequencies(head_dim)
  assert np.abs(ours_F / plain_F - 1).max() > 0.4, "nothing was scaled"


@pytest.mark.parametrize(("D", "theta", "factor", "L"), SHAPES)
def test_position_interpolation_is_transformers_linear(D, theta, factor, L):
  theirs = _theirs("linear", D, theta, L, factor=factor)
  _assert_same(PositionInterpolation(theta, factor), D, theirs)


@pytest.mark.parametrize(("D", "theta", "factor", "L"), SHAPES)
def test_ntk_aware_is_transformers_dynamic_at_that_length(D, theta, factor, L):
  theirs = _theirs("dynamic", D, theta, L, seq_len=int(factor * L), factor=1.0)
  _assert_same(NtkAware(theta, factor), D, theirs)


@pytest.mark.parametrize(("D", "theta", "factor", "L"), SHAPES)
def test_ntk_aware_is_plain_rope_of_another_theta(D, theta, factor, L):
  scheme = NtkAware(theta, factor)
  rope = scheme.as_rope(D)
  assert rope == Rope(theta * factor ** (D / (D - 2)))
  np.testing.assert_array_equal(rope.frequencies(D), scheme.frequencies(D))


@pytest.mark.parametrize("factor", [1e300, 1e306])
def test_ntk_aware_refuses_a_factor_whose_theta_is_infinite(factor):
  # The product with theta overflows, then the power itself.
  with pytest.raises(ValueError, match="NtkAware needs a finite theta"):
    NtkAware(1e10, factor).frequencies(128)
  assert np.isfinite(NtkAware(1e10, 1e200).frequencies(128)).all()


@pytest.mark.parametrize("times", [0.5, 1.0, 1.5, 7.0])
@pytest.mark.parametrize(("D", "theta", "factor", "L"), SHAPES)
def test_dynamic_ntk_is_transformers_at_any_factor(D, theta, factor, L, times):
  length = int(times * L)
  theirs_F, _ = _theirs("dynamic", D, theta, L, seq_len=length, factor=factor)
  ours = Dynamic(NtkAware(theta, factor), L).at(length)
  np.testing.assert_allclose(ours.frequencies(D), theirs_F, rtol=1e-6)
  assert (ours.factor > 1) == (times > 1)


@pytest.mark.parametrize("betas", [(32.0, 1.0), (8.0, 2.0)])
@pytest.mark.parametrize(("D", "theta", "factor", "L"), SHAPES)
def test_yarn_is_transformers(D, theta, factor, L, betas):
  fast, slow = betas
  ramp = {"beta_fast": fast, "beta_slow": slow}
  theirs = _theirs("yarn", D, theta, L, factor=factor, **ramp)
  _assert_same(Yarn(theta, factor, L, fast, slow), D, theirs)


def test_yarns_ramp_ends_at_the_last_channel_as_transformers_does():
  # Pair 25 of 8 would complete one rotation; the ramp ends at 15.
  D, theta, factor, L, fast = 16, 10.0, 32.0, 8192, 2000.0
  ramp = {"beta_fast": fast, "beta_slow": 1.0}
  theirs = _theirs("yarn", D, theta, L, factor=factor, **ramp)
  _assert_same(Yarn(theta, factor, L, fast), D, theirs)


@pytest.mark.parametrize(("D", "theta", "factor", "L"), SHAPES)
def test_yarn_with_a_length_factor_and_without_truncation(D, theta, factor, L):
  others = {"attention_factor": 1.25, "truncate": False}
  theirs = _theirs("yarn", D, theta, L, factor=factor, **others)
  ours = Yarn(theta, factor, L, length_factor=1.25, truncate=False)
  _assert_same(ours, D, theirs)
  truncated_F = Yarn(theta, factor, L).frequencies(D)
  assert np.abs(ours.frequencies(D) / truncated_F - 1).max() > 0.01


@pytest.mark.parametrize(("D", "theta", "factor", "L"), SHAPES)
def test_llama3_is_transformers(D, theta, factor, L):
  ramp = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
  theirs = _theirs("llama3", D, theta, L, factor=factor, **ramp)
  _assert_same(Llama3Rope(theta, factor, L), D, theirs)


def test_yarn_multiplies_logits_by_its_temperature_squared():
  x_BSHD = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 1, 64)))
  zeros_BS = jnp.zeros((1, 4), jnp.int32)  # No rotation: temperature alone.

  def logits(scheme):
    cos_S1D, sin_S1D = scheme.rotation(zeros_BS, 64)[0, :, :, None]
    y_BSHD = attention.rotate(x_BSHD, cos_S1D, sin_S1D)
    return np.einsum("bshd,bthd->st", y_BSHD, y_BSHD)

  temperature = 0.1 * math.log(8.0) + 1.0
  np.testing.assert_allclose(
    logits(Yarn(factor=8.0)), temperature**2 * logits(Rope()), rtol=1e-5
  )


def test_critical_ntk_slows_what_no_rotation_trained_and_keeps_the_fastest():
  D, theta, L, s = 32, 500.0, 512, 8.0
  rope_F = Rope(theta).frequencies(D).astype(np.float64)
  critical = int((L * rope_F / (2 * math.pi) >= 1).sum())
  assert critical == 12
  scheme = CriticalNtk(theta, s, L)
  divisor_F = rope_F / scheme.frequencies(D)
  np.testing.assert_allclose(divisor_F[critical:], s, rtol=1e-5)
  assert divisor_F[0] == pytest.approx(1.0)
  # Below it the frequencies are those of another theta.
  ratios_F = divisor_F[1 : critical + 1] / divisor_F[:critical]
  np.testing.assert_allclose(ratios_F, s ** (1 / critical), rtol=1e-5)
  assert scheme.attention_factor == pytest.approx(math.sqrt(1 + 3 / 9))


def test_critical_ntk_is_interpolation_where_no_pair_is_complete():
  short = CriticalNtk(500.0, 2.0, 4).frequencies(32)
  interpolated = PositionInterpolation(500.0, 2.0).frequencies(32)
  np.testing.assert_allclose(short, interpolated, rtol=1e-6)


@pytest.mark.parametrize("scaling_rule", ["pi", "ntk", "yarn", "longrope2"])
def test_a_factor_of_one_is_plain_rope(scaling_rule):
  scheme = scaling.scaled(Rope(2e4), scaling_rule, 1.0, 512)
  np.testing.assert_array_equal(
    scheme.frequencies(64), Rope(2e4).frequencies(64)
  )
  assert scheme.attention_factor == 1.0


@pytest.mark.parametrize("rule", [PositionInterpolation, NtkAware, Yarn])
def test_dynamic_follows_the_length_it_is_given(rule):
  dynamic, D, L = Dynamic(rule(theta=2e4), trained_tokens=16), 32, 16
  for length, factor in [(8, 1.0), (16, 1.0), (32, 2.0), (100, 6.25)]:
    pos_BS = jnp.arange(length)[None]
    fixed = rule(theta=2e4, factor=factor)
    assert dynamic.at(length) == fixed
    np.testing.assert_array_equal(
      dynamic.rotation(pos_BS, D), fixed.rotation(pos_BS, D)
    )
  np.testing.assert_array_equal(
    dynamic.frequencies(D), dynamic.at(L).frequencies(D)
  )


def test_scaled_names_the_method_it_makes():
  rope, settings = Rope(2e4), (4.0, 512)
  assert scaling.scaled(rope, "rope", *settings) is rope
  assert scaling.scaled(rope, "pi", *settings) == PositionInterpolation(2e4, 4)
  assert scaling.scaled(rope, "ntk", *settings) == NtkAware(2e4, 4)
  assert scaling.scaled(rope, "yarn", *settings) == Yarn(2e4, 4, 512)
  longrope2 = scaling.scaled(rope, "longrope2", *settings)
  assert longrope2 == CriticalNtk(2e4, 4, 512)


def test_scaled_asks_of_the_settings_what_its_method_needs():
  short = (0.5, 0)  # Neither a longer context nor a trained one.
  assert scaling.scaled(Rope(), "rope", *short) == Rope()
  assert scaling.scaled(Rope(), "ntk", 2.0, 0) == NtkAware(factor=2.0)
  with pytest.raises(ValueError, match="NtkAware needs a finite factor"):
    scaling.scaled(Rope(), "ntk", *short)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: PositionInterpolation(factor=0.5), r"factor of at least 1, got 0"),
    (lambda: NtkAware(factor=float("nan")), r"NtkAware.*at least 1, got nan"),
    (lambda: Yarn(trained_tokens=0), r"trained_tokens.*got 0\. Give the"),
    (lambda: Yarn(factor=math.inf), r"Yarn needs a finite factor.*got inf"),
    (lambda: Yarn(length_factor=0.0), r"length_factor above 0.*got 0\.0"),
    (lambda: Yarn(beta_fast=1.0), r"beta_fast > beta_slow.*got 1.*paper's"),
    (lambda: Yarn(beta_slow=0.0), r"beta_slow > 0, got 32.0 and 0.0\. The"),
    (lambda: Yarn(beta_slow=-1.0), r"beta_slow > 0, got 32.0 and -1.0\. The"),
    (
      lambda: Llama3Rope(low_freq_factor=4.0),
      r"high_freq_factor > low.*got 4.*Llama 3.1's",
    ),
    (lambda: Dynamic(trained_tokens=0), r"Dynamic.*at least 1, got 0\. Give"),
    (lambda: CriticalNtk(trained_tokens=1), r"at least 2, got 1\. Give the"),
    (lambda: CriticalNtk(factor=0.9), r"CriticalNtk.*at least 1, got 0\.9"),
    (lambda: NtkAware().frequencies(2), r"above 2, got 2.*Use Position"),
    (
      lambda: scaling.scaled(Nope(), "pi", 2.0, 512),
      r"plain Rope, got Nope\(\)\. Keep its own",
    ),
    (
      lambda: scaling.scaled(Rope(), "xpos", 2.0, 512),
      r"one of rope, pi, ntk, yarn, longrope2, got 'xpos'\. Name one",
    ),
  ],
)
def test_bad_settings_are_refused_with_what_to_do(make, message):
  with pytest.raises(ValueError, match=message):
    make()
