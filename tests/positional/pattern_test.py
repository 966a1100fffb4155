"""A pattern lays its period over the layers, as arrays for one scanned body."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.positional import (
  Alibi,
  Dynamic,
  Kerple,
  LogScaled,
  Nope,
  NtkAware,
  Pattern,
  Rope,
)
from drope_jax.positional import pattern as patterns
from drope_jax.positional.scheme import Scheme

RNOPE = Pattern((Rope(), Rope(), Nope()), (8, 8, None))


@dataclasses.dataclass(frozen=True)
class Recent(Scheme):
  """Adds `gain` to the logits of the last `tokens` keys."""

  tokens: int = 2
  gain: float = 3.0

  def bias(self, num_heads, distance_T):
    bias_T = jnp.where(distance_T < self.tokens, self.gain, 0.0)
    return jnp.broadcast_to(bias_T, (num_heads, len(distance_T)))


def _prepared(plan, pos_BS=((0, 1, 2, 3, 4),), num_keys=7):
  return plan.prepare(jnp.asarray(pos_BS), num_keys, head_dim=8, num_heads=8)


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


@pytest.mark.parametrize("positional", [Nope(), Pattern((Nope(), Nope()))])
def test_no_array_of_what_no_layer_has(positional):
  plan = patterns.layer_plan(positional, 4)
  assert plan.window_array() is None
  assert _prepared(plan) == patterns.Positions(None, None, None, None)


def test_layers_become_their_shortest_period():
  plan = patterns.layer_plan(RNOPE, 6)
  schemes = patterns.layer_schemes(RNOPE, 6)
  assert patterns.of_layers(schemes, plan.windows) == RNOPE
  assert patterns.of_layers(schemes) == Pattern(RNOPE.schemes)
  assert patterns.of_layers([Nope()] * 3, [None] * 3) == Nope()
  assert patterns.of_layers([Nope()] * 3, [1] * 3) == Pattern((Nope(),), (1,))


def test_each_layer_has_what_its_own_scheme_does():
  schemes = (
    Nope(),
    Rope(1e4),
    Rope(1e2),
    Alibi(),
    Recent(),
    LogScaled(Rope(1e2), trained_tokens=2),
  )
  plan = patterns.layer_plan(Pattern(schemes), 6)
  pos_BS = jnp.asarray([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]])
  stacked = _prepared(plan, pos_BS)
  unrotated = np.broadcast_to([[[1.0]], [[0.0]]], (2, 2, 5, 8))
  for layer, scheme in enumerate(schemes):
    own = plan.of_layer(stacked, plan.scheme_array()[layer], {}, 7)
    for got, want, neutral in (
      (own.rotation_B2SD, scheme.rotation(pos_BS, 8), unrotated),
      (own.slopes_H, scheme.bias_slopes(8), np.zeros(8)),
      (own.bias_HT, scheme.bias(8, jnp.arange(7)), np.zeros((8, 7))),
      (own.scale_BS, scheme.query_scale(pos_BS), np.ones((2, 5))),
    ):
      np.testing.assert_array_equal(got, neutral if want is None else want)
      assert got.dtype == jnp.float32
  for x_N in stacked:
    assert len(np.unique(x_N, axis=0)) > 1, "all layers are alike"


def test_a_learned_bias_is_that_of_its_layers_alone():
  kerple = Kerple()
  plan = patterns.layer_plan(Pattern((Recent(), kerple, Nope())), 3)
  stacked = _prepared(plan)
  for learned in (kerple.init(8, jax.random.key(i)) for i in range(2)):
    for layer, want_HT in enumerate(
      (
        Recent().bias(8, jnp.arange(7)),
        kerple.learned_bias(learned, jnp.arange(7)),
        np.zeros((8, 7)),
      )
    ):
      own = plan.of_layer(stacked, plan.scheme_array()[layer], learned, 7)
      np.testing.assert_array_equal(own.bias_HT, want_HT)


def test_queries_scales_multiply_that_of_the_model():
  plan = patterns.layer_plan(LogScaled(trained_tokens=2, slope=1.0), 1)
  position = plan.of_layer(_prepared(plan), 0, {}, 7)
  scale_BS = position.scaled(jnp.float32(3.0), (2, 5))
  assert scale_BS.shape == (2, 5), "a mesh divides sequences"
  want_S = 3 * (1 + np.log([1, 1, 1.5, 2, 2.5]))
  np.testing.assert_allclose(scale_BS, [want_S, want_S], rtol=1e-6)
  unscaled = patterns.Positions(None, None, None, None)
  assert unscaled.scaled(3.0, (2, 5)) == 3.0


@pytest.mark.parametrize(
  ("scheme", "effects"),
  [
    (Nope(), set()),
    (Rope(), {"rotation_B2SD"}),
    (Alibi(), {"slopes_H"}),
    (Recent(), {"bias_HT"}),
    (Kerple(), {"bias_HT"}),
    (LogScaled(Alibi()), {"slopes_H", "scale_BS"}),
  ],
)
def test_a_plan_has_the_effects_of_its_schemes(scheme, effects):
  plan = patterns.layer_plan(Pattern((Nope(), scheme)), 2)
  shapes = plan.shapes(head_dim=8, num_heads=4)._asdict()
  assert {name for name, x in shapes.items() if x is not None} == effects


def test_a_length_fixes_every_layer():
  dynamic = Dynamic(NtkAware(), 8)
  mixed = Pattern((dynamic, LogScaled(dynamic), Rope()), (4, None, None))
  assert not dynamic.is_fixed and not LogScaled(dynamic).is_fixed
  fixed = mixed.at(16)
  assert fixed.schemes == (
    NtkAware(factor=2.0),
    LogScaled(NtkAware(factor=2.0)),
    Rope(),
  )
  assert fixed.windows == mixed.windows
  assert all(scheme.is_fixed for scheme in fixed.schemes)


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
    (
      lambda: patterns.layer_plan(Pattern((Kerple(), Kerple(0.1))), 2),
      r"one scheme that learns, got Kerple.* and Kerple.*\. Keep one",
    ),
  ],
)
def test_bad_patterns_are_refused_with_what_to_do(make, message):
  with pytest.raises(ValueError, match=message):
    make()
