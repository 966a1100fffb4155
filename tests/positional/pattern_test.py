"""A pattern lays its period over the layers, as arrays for one scanned body."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.positional import Alibi, Nope, Pattern, Rope
from drope_jax.positional import pattern as patterns
from drope_jax.positional.rotary import rotate

RNOPE = Pattern((Rope(), Rope(), Nope()), (8, 8, None))


def test_the_period_is_repeated_over_the_layers():
  plan = patterns.layer_plan(RNOPE, 6)
  assert plan.schemes == (Rope(), Nope())
  assert plan.scheme_N == (0, 0, 1, 0, 0, 1)
  assert plan.windows == (8, 8, None, 8, 8, None)
  np.testing.assert_array_equal(plan.scheme_array(), plan.scheme_N)
  no_window = np.iinfo(np.int32).max
  np.testing.assert_array_equal(
    plan.window_array(), [8, 8, no_window, 8, 8, no_window]
  )


@pytest.mark.parametrize("positional", [Rope(), Pattern((Rope(), Nope()))])
def test_no_array_of_windows_or_slopes_where_no_layer_has_one(positional):
  plan = patterns.layer_plan(positional, 4)
  assert plan.window_array() is None and plan.slopes_array(8) is None


def test_layers_become_their_shortest_period():
  plan = patterns.layer_plan(RNOPE, 6)
  schemes = patterns.layer_schemes(RNOPE, 6)
  assert patterns.of_layers(schemes, plan.windows) == RNOPE
  assert patterns.of_layers(schemes) == Pattern(RNOPE.schemes)
  assert patterns.of_layers([Nope()] * 3, [None] * 3) == Nope()
  assert patterns.of_layers([Nope()] * 3, [8] * 3) == Pattern((Nope(),), (8,))


def test_slopes_are_zero_on_layers_without_bias():
  plan = patterns.layer_plan(Pattern((Alibi(), Rope())), 4)
  slopes_H = Alibi().bias_slopes(8)
  np.testing.assert_array_equal(
    plan.slopes_array(8), [slopes_H, 0 * slopes_H] * 2
  )


def test_each_layer_turns_by_its_own_scheme():
  plan = patterns.layer_plan(Pattern((Nope(), Rope(1e4), Rope(1e2))), 3)
  x_BSHD = jax.random.normal(jax.random.key(0), (1, 5, 2, 8))
  pos_BS = jnp.arange(5)[None]
  turns_NB2SD = plan.prepare(pos_BS, 8)[plan.scheme_array()]
  np.testing.assert_array_equal(rotate(x_BSHD, turns_NB2SD[0]), x_BSHD)
  for turn_B2SD, scheme in zip(turns_NB2SD[1:], plan.schemes[1:], strict=True):
    np.testing.assert_array_equal(turn_B2SD, scheme.prepare(pos_BS, 8))
  assert np.abs(turns_NB2SD[1] - turns_NB2SD[2]).max() > 0.1


def test_nothing_turns_where_no_scheme_does():
  plan = patterns.layer_plan(Pattern((Nope(), Alibi())), 4)
  assert plan.prepare(jnp.arange(5)[None], 8) is None


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Pattern(()), r"at least one scheme, got none\. Name one"),
    (
      lambda: Pattern((RNOPE, Nope())),
      r"scheme for each layer, got a Pattern within\. Write out",
    ),
    (
      lambda: Pattern((Rope(), Nope()), (8,)),
      r"window for each of its 2 schemes, got 1\. Write None",
    ),
    (
      lambda: Pattern((Rope(),), (0,)),
      r"at least 1 token, got 0\. Write None",
    ),
    (
      lambda: patterns.layer_plan(RNOPE, 4),
      r"must divide the layers, got 3 schemes for 4 layers\. Name a scheme",
    ),
  ],
)
def test_bad_patterns_are_refused_with_what_to_do(make, message):
  with pytest.raises(ValueError, match=message):
    make()
