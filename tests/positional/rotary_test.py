"""RoPE against complex numbers, and the property it is used for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention
from drope_jax.positional import (
  Llama3Rope,
  NtkAware,
  PositionInterpolation,
  Rope,
  Yarn,
  rotary,
)

D = 16


def _rotate(scheme, x_SD, pos_S):
  """Rows of x rotated to their positions, as queries of one head."""
  x_BSHD = jnp.asarray(x_SD, jnp.float32)[None, :, None]
  table_B2SD = scheme.rotation(jnp.asarray(pos_S)[None], x_SD.shape[-1])
  return np.asarray(attention.rotate(x_BSHD, *table_B2SD[0, :, :, None]))[
    0, :, 0
  ]


def _logits(scheme, pos_S):
  """One head's logits from one query and one key, repeated at `pos_S`."""
  q_D, k_D = np.random.default_rng(0).normal(size=(2, D))
  rows = len(pos_S)
  q_SD = _rotate(scheme, np.tile(q_D, (rows, 1)), pos_S)
  k_SD = _rotate(scheme, np.tile(k_D, (rows, 1)), pos_S)
  return q_SD @ k_SD.T


@pytest.mark.parametrize("theta", [1e4, 5e5])
def test_matches_complex_multiplication_in_numpy(theta):
  pos_S = np.array([0, 1, 257, 8191])
  x_SD = np.random.default_rng(0).normal(size=(4, D))
  freq_F = theta ** (-np.arange(0, D, 2) / D)
  z_SF = x_SD[:, : D // 2] + 1j * x_SD[:, D // 2 :]
  z_SF *= np.exp(1j * np.outer(pos_S, freq_F))
  want_SD = np.concatenate([z_SF.real, z_SF.imag], axis=-1)
  # An angle of 8191 radians has a float32 spacing of 1e-3, and x reaches 2.
  np.testing.assert_allclose(
    _rotate(Rope(theta), x_SD, pos_S), want_SD, atol=2e-3
  )


def test_two_thetas_in_one_process_do_not_share_a_table():
  x_SD, pos_S = np.ones((3, D)), np.array([0, 5, 50])
  first = _rotate(Rope(1e4), x_SD, pos_S)
  other = _rotate(Rope(5e5), x_SD, pos_S)
  np.testing.assert_array_equal(first, _rotate(Rope(1e4), x_SD, pos_S))
  assert np.abs(first - other).max() > 0.1


def test_scores_depend_only_on_distance():
  near_ST = _logits(Rope(), np.arange(8))
  far_ST = _logits(Rope(), np.arange(8) + 1000)
  # Spacing of an angle of 1000 radians, 6e-5, times |q| |k| of about 16.
  np.testing.assert_allclose(near_ST, far_ST, atol=1e-3)
  assert np.ptp(near_ST) > 0.1, "positions had no effect: nothing is shown"


def test_rotation_by_zero_changes_no_bit():
  x_BSHD = jax.random.normal(jax.random.key(0), (2, 8, 3, D))
  cos_S1D, sin_S1D = Rope().rotation(jnp.zeros((1, 8), jnp.int32), D)[
    0, :, :, None
  ]
  for dtype in (jnp.float32, jnp.bfloat16):
    x = x_BSHD.astype(dtype)
    rotated = attention.rotate(x, cos_S1D, sin_S1D)
    assert rotated.dtype == jnp.float32
    np.testing.assert_array_equal(rotated, x.astype(jnp.float32))


def test_bfloat16_inputs_are_rotated_in_float32():
  x_SD, pos_S = np.ones((2, D)), np.array([4096, 4097])
  x_BSHD = jnp.ones((1, 2, 1, D), jnp.bfloat16)
  table_B2SD = Rope().rotation(jnp.asarray(pos_S)[None], D)
  got_BSHD = attention.rotate(x_BSHD, *table_B2SD[0, :, :, None])
  # bfloat16 could not tell the two positions apart.
  np.testing.assert_array_equal(got_BSHD[0, :, 0], _rotate(Rope(), x_SD, pos_S))


def test_given_frequencies_rotate_as_the_scheme_that_they_come_from():
  yarn, x_SD, pos_S = Yarn(factor=4.0), np.ones((3, D)), np.array([0, 5, 5000])
  given = rotary.Given(
    jnp.asarray(yarn.frequencies(D)), jnp.float32(yarn.attention_factor)
  )
  np.testing.assert_allclose(
    _rotate(given, x_SD, pos_S), _rotate(yarn, x_SD, pos_S), rtol=1e-6
  )


@pytest.mark.parametrize("scheme", [Rope(), Yarn(factor=4.0)])
def test_an_odd_head_dim_is_refused(scheme):
  with pytest.raises(ValueError, match=r"even head_dim.*got 15\. Change"):
    scheme.rotation(jnp.zeros((1, 1), jnp.int32), 15)


@pytest.mark.parametrize("theta", [-1.0, 1.0, math.nan, math.inf])
@pytest.mark.parametrize(
  "kind", [Rope, PositionInterpolation, NtkAware, Yarn, Llama3Rope]
)
def test_a_theta_that_spreads_no_frequencies_is_refused(kind, theta):
  message = rf"{kind.__name__} needs .* above 1, got {theta}\. Llama's is"
  with pytest.raises(ValueError, match=message):
    kind(theta)
