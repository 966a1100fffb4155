"""KERPLE's bias against its formula, and that it can be learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.positional import Kerple, LogScaled

DISTANCE_T = jnp.arange(6)


def test_the_bias_is_the_papers_formula():
  learned = {"p": jnp.array([0.5, 2.0]), "a": jnp.array([1.0, 0.1])}
  want_HT = [
    [-p * np.log(1 + a * t) for t in range(6)] for p, a in ((0.5, 1), (2, 0.1))
  ]
  got_HT = Kerple().learned_bias(learned, DISTANCE_T)
  np.testing.assert_allclose(got_HT, want_HT, rtol=1e-6)
  assert got_HT.dtype == jnp.float32


def test_parameters_below_the_least_are_at_the_least():
  learned = {"p": jnp.array([-1.0]), "a": jnp.array([-1.0])}
  np.testing.assert_allclose(
    Kerple(0.25).learned_bias(learned, DISTANCE_T),
    [-0.25 * np.log1p(0.25 * np.arange(6))],
    rtol=1e-6,
  )


def test_a_parameter_below_the_least_still_learns():
  def loss(learned):
    return jnp.sum(Kerple(0.25).learned_bias(learned, DISTANCE_T))

  below, at = ({"p": jnp.array([x]), "a": jnp.array([x])} for x in (-1.0, 0.25))
  gradients = [jax.grad(loss)(learned) for learned in (below, at)]
  assert gradients[0]["p"] < 0 and gradients[0]["a"] < 0
  jax.tree.map(np.testing.assert_allclose, *gradients)
  started = Kerple(0.5).init(1000, jax.random.key(0))
  assert min(x_H.min() for x_H in started.values()) == 0.5


def test_a_layer_starts_in_the_authors_ranges_with_its_own_values():
  first, other = (
    Kerple().init(1000, jax.random.key(seed)) for seed in range(2)
  )
  for name, most in (("p", 2), ("a", 1)):
    values_H = np.asarray(first[name])
    assert 0 <= values_H.min() < 0.05 * most
    assert 0.95 * most < values_H.max() <= most
    assert np.abs(values_H - other[name]).max() > 0.5
  assert np.abs(first["p"] - 2 * first["a"]).max() > 0.5


def test_a_scale_by_position_leaves_it_learning():
  assert Kerple().learns and LogScaled(Kerple()).learns
  assert not LogScaled().learns


@pytest.mark.parametrize("least", [0.0, -1.0, 1.0])
def test_a_least_out_of_range_is_refused(least):
  with pytest.raises(ValueError, match=rf"between 0 and 1, got {least}"):
    Kerple(least)
