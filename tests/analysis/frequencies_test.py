import math

import numpy as np
import pytest

from drope_jax.analysis import frequencies
from drope_jax.positional import NtkAware, Rope

HEAD_DIM, TRAINED_TOKENS = 32, 4096
FACTORS = (2.0, 4.0, 8.0)


def _gamma(method, factor):
  found = frequencies.scalings(
    Rope(), HEAD_DIM, TRAINED_TOKENS, factors=[factor]
  )
  return {s.method: s.gamma_F for s in found}[method]


@pytest.mark.parametrize("factor", FACTORS)
def test_pi_divides_every_frequency_by_the_factor(factor):
  # float32 frequencies carry 24 bits.
  np.testing.assert_allclose(_gamma("pi", factor), 1 / factor, rtol=1e-6)


@pytest.mark.parametrize("factor", FACTORS)
def test_ntk_falls_geometrically_from_one_to_one_over_the_factor(factor):
  m_F = np.arange(HEAD_DIM // 2)
  want_F = factor ** (-2 * m_F / (HEAD_DIM - 2))
  np.testing.assert_allclose(_gamma("ntk", factor), want_F, rtol=2e-6)


def test_yarn_spares_pairs_above_32_rotations_and_scales_those_below_one():
  rotations_F = frequencies.pairs(Rope(), HEAD_DIM, TRAINED_TOKENS).rotations_F
  gamma_F = _gamma("yarn", 8.0)
  # The ramp's ends are floored and ceiled: one pair of slack on either side.
  fast, slow = (
    np.flatnonzero(rotations_F > 32)[:-1],
    np.flatnonzero(rotations_F < 1)[1:],
  )
  assert len(fast) and len(slow), "no pair is fast, or none slow: vacuous"
  np.testing.assert_allclose(gamma_F[fast], 1, rtol=1e-6)
  np.testing.assert_allclose(gamma_F[slow], 1 / 8, rtol=1e-6)
  assert (np.diff(gamma_F) <= 1e-6).all()


def test_rotations_are_full_circles_in_the_trained_context():
  pairs = frequencies.pairs(Rope(100.0), 4, 628)
  np.testing.assert_allclose(pairs.omega_F, [1, 0.1], rtol=1e-6)
  np.testing.assert_allclose(
    pairs.rotations_F, np.array([628, 62.8]) / math.tau, rtol=1e-6
  )


def test_any_two_rotary_schemes_can_be_compared():
  gamma_F = frequencies.gamma(NtkAware(factor=4.0), Rope(), HEAD_DIM)
  np.testing.assert_allclose(gamma_F, _gamma("ntk", 4.0), rtol=1e-7)


def test_scales_come_in_one_entry_per_method_and_factor():
  found = frequencies.scalings(Rope(), HEAD_DIM, TRAINED_TOKENS, FACTORS)
  assert [(s.factor, s.method) for s in found] == [
    (factor, method) for factor in FACTORS for method in ("pi", "ntk", "yarn")
  ]
