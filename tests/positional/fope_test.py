"""FoPE against its formula in complex numbers, and RoPE without slow pairs."""

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.positional import Fope, PartialRope, Rope

D = 16
SCHEME = Fope(theta=100.0, trained_tokens=64, gain=0.4, seed=3)
POS_BS = jnp.asarray([[0, 1, 7, 63, 500]])


def _waves(scheme, head_dim=D):
  """A table's cosines and sines, of each pair."""
  cos_SD, sin_SD = np.asarray(scheme.rotation(POS_BS, head_dim))[0]
  first, second = np.split(sin_SD, 2, axis=-1)
  np.testing.assert_array_equal(first, -second)
  np.testing.assert_array_equal(*np.split(cos_SD, 2, axis=-1))
  return cos_SD[:, : head_dim // 2], second


def test_a_pair_is_its_series_of_the_frequencies_that_training_covers():
  # Of theta 100's eight pairs at 64 tokens, 5 complete a rotation.
  omega_F = 100.0 ** (-np.arange(8) / 8)
  omega_F = omega_F[64 * omega_F >= 2 * np.pi]
  assert len(omega_F) == 5
  noise = np.random.RandomState(3).standard_normal((2, 5, 5))
  wave_SF = np.exp(1j * np.asarray(POS_BS)[0][:, None] * omega_F)
  cos_SF, sin_SF = _waves(SCHEME)
  weights = 0.4 / np.sqrt(5) * noise
  for got_SF, part_SF, weights_FF in (
    (cos_SF, wave_SF.real, weights[0]),
    (sin_SF, wave_SF.imag, weights[1]),
  ):
    want_SF = part_SF + part_SF @ weights_FF
    # Angles of 500 radians have a float32 spacing of 3e-5.
    np.testing.assert_allclose(got_SF[:, :5], want_SF, atol=2e-4)
    assert np.abs(want_SF - part_SF).max() > 0.3, "the series add nothing"


def test_pairs_without_a_whole_rotation_are_not_rotated():
  cos_SF, sin_SF = _waves(SCHEME)
  np.testing.assert_array_equal(cos_SF[:, 5:], 1)
  np.testing.assert_array_equal(sin_SF[:, 5:], 0)


def test_without_a_gain_it_is_rope_on_its_fast_pairs():
  scheme = Fope(100.0, 64, gain=0.0)
  # Sums of float32 products with ones and zeros.
  np.testing.assert_allclose(
    scheme.rotation(POS_BS, D),
    PartialRope(Rope(100.0), 5).rotation(POS_BS, D),
    atol=1e-6,
  )


def test_a_seed_has_its_own_series():
  one, other = (Fope(100.0, 64, seed=seed) for seed in (0, 1))
  assert np.abs(_waves(one)[0] - _waves(other)[0]).max() > 0.1
  np.testing.assert_array_equal(_waves(one)[0], _waves(Fope(100.0, 64))[0])


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Fope(1.0), r"Fope needs a finite theta above 1, got 1\.0"),
    (lambda: Fope(trained_tokens=0), r"trained_tokens.*got 0"),
    (lambda: Fope(gain=-0.1), r"gain of at least 0, got -0\.1\. The paper's"),
    (lambda: Fope(seed=-1), r"seed from 0 to 2\*\*32 - 1, got -1"),
    (
      lambda: Fope(trained_tokens=6).check(D),
      r"completes a rotation.*got none in 6 tokens\. Raise trained_tokens",
    ),
    (lambda: Fope().check(15), r"even head_dim.*got 15"),
  ],
)
def test_bad_settings_are_refused_with_what_to_do(make, message):
  with pytest.raises(ValueError, match=message):
    make()
