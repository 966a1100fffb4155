"""Schemes that no code knows: their own file is all that they need."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.analysis import damage
from drope_jax.attention import BACKENDS, Need
from drope_jax.model import cache as caches
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Alibi, Nope, Pattern
from drope_jax.positional.scheme import Scheme
from drope_jax.surgery import drop_positional

S, WINDOW = 24, 5
CONFIG = ModelConfig(
  vocab_size=31,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=S,
)


@dataclasses.dataclass(frozen=True)
class Cutoff(Scheme):
  """A bias that no key further than `tokens` outweighs, which is a window."""

  tokens: int = WINDOW

  def bias(self, num_heads, distance_T):
    bias_T = jnp.where(distance_T < self.tokens, 0.0, -1e9)
    return jnp.broadcast_to(bias_T, (num_heads, len(distance_T)))


def _under(positional):
  return dataclasses.replace(CONFIG, positional=positional)


@dataclasses.dataclass(frozen=True)
class LearnedSlopes(Scheme):
  """ALiBi whose slopes are learned."""

  def init(self, num_heads, key):
    return {"slope": jax.random.uniform(key, (num_heads,))}

  def learned_bias(self, learned, distance_T):
    return -learned["slope"][:, None] * distance_T


CUT, WINDOWED, NOPE, ALIBI, LEARNED = map(
  _under,
  (Cutoff(), Pattern((Nope(),), (WINDOW,)), Nope(), Alibi(), LearnedSlopes()),
)


_forward = jax.jit(
  transformer.forward, static_argnums=0, static_argnames="backend"
)


@pytest.fixture(scope="module")
def params():
  # Large weights: attention far from uniform, where keys matter.
  weights = transformer.init(CONFIG, jax.random.key(0))
  return jax.tree.map(lambda leaf: 3 * leaf if leaf.ndim > 2 else leaf, weights)


@pytest.fixture(scope="module")
def tokens_BS():
  return jax.random.randint(jax.random.key(1), (2, S), 0, CONFIG.vocab_size)


ABLE = [name for name, b in BACKENDS.items() if Need.BIAS in b.honors]


def test_a_bias_enters_the_forward_pass_of_every_able_backend(
  params, tokens_BS
):
  want_BSV = _forward(WINDOWED, params, tokens_BS)
  without_BSV = _forward(NOPE, params, tokens_BS)
  assert np.abs(want_BSV - without_BSV).max() > 0.1, "the bias has no effect"
  assert {"reference", "blockwise", "xla"} <= {*ABLE}
  for backend in ABLE:
    got_BSV = _forward(CUT, params, tokens_BS, backend=backend)
    # Sums in another order, over signals of order one.
    np.testing.assert_allclose(got_BSV, want_BSV, atol=2e-5)


@pytest.mark.parametrize("backend", sorted({*BACKENDS} - {*ABLE}))
def test_a_backend_that_has_no_bias_is_refused_by_name(
  params, tokens_BS, backend
):
  message = rf"bias by distance.*got '{backend}'\. Name one of {ABLE[0]}"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda: transformer.forward(CUT, params, tokens_BS, backend=backend)
    )


def test_a_bias_is_in_the_damage_report(params, tokens_BS):
  cut, windowed, nope = (
    damage.measure(config, params, tokens_BS)
    for config in (CUT, WINDOWED, NOPE)
  )
  np.testing.assert_allclose(cut.entropy_N, windowed.entropy_N, rtol=1e-4)
  np.testing.assert_allclose(cut.max_logit_N, windowed.max_logit_N, rtol=1e-4)
  assert cut.loss == pytest.approx(windowed.loss, rel=1e-4)
  # One layer reads what no bias has changed yet, but its attention is changed.
  assert cut.entropy_N[0] < 0.9 * nope.entropy_N[0]


def test_decoding_by_a_cache_has_the_bias(params, tokens_BS):
  B, read = len(tokens_BS), S - 3
  cache = caches.empty(CUT, B, S + 4, jnp.float32)
  parts = []
  for part_BS in (tokens_BS[:, :read], tokens_BS[:, read:]):
    x_BSM, cache = transformer.forward_cached(
      CUT, params, part_BS, cache, from_empty=not parts
    )
    parts.append(x_BSM)
  # Sums in another order, over states of up to 33.
  np.testing.assert_allclose(
    jnp.concatenate(parts, axis=1),
    transformer.hidden(CUT, params, tokens_BS),
    atol=2e-4,
  )


# Schemes that learn -----------------------------------------------------------

SLOPE = "layers/attention/positions/slope"


@pytest.fixture(scope="module")
def learning(params):
  """The weights of `LEARNED` with ALiBi's slopes in every layer."""
  slopes_NH = jnp.tile(Alibi().bias_slopes(CONFIG.num_heads), (2, 1))
  return trees.unflatten({**trees.flatten(params), SLOPE: slopes_NH})


def test_each_layer_starts_with_values_of_its_own():
  leaves = trees.flatten(transformer.init(LEARNED, jax.random.key(0)))
  assert leaves.keys() == {
    *trees.flatten(transformer.param_shapes(NOPE)),
    SLOPE,
  }
  assert leaves[SLOPE].shape == (2, CONFIG.num_heads)
  assert np.unique(leaves[SLOPE]).size == 2 * CONFIG.num_heads


def test_what_is_learned_is_in_the_forward_pass_and_the_report(
  params, learning, tokens_BS
):
  for backend in ABLE:
    np.testing.assert_allclose(
      _forward(LEARNED, learning, tokens_BS, backend=backend),
      _forward(ALIBI, params, tokens_BS, backend=backend),
      atol=2e-5,
    )
  learned = damage.measure(LEARNED, learning, tokens_BS)
  alibi = damage.measure(ALIBI, params, tokens_BS)
  np.testing.assert_allclose(learned.entropy_N, alibi.entropy_N, rtol=1e-4)


def test_what_is_learned_has_a_gradient_in_every_layer(learning, tokens_BS):
  leaves = trees.flatten(learning)

  def total(slopes_NH):
    weights = trees.unflatten({**leaves, SLOPE: slopes_NH})
    logits_BSV = transformer.forward(
      LEARNED, weights, tokens_BS, backend="blockwise"
    )
    return jnp.square(logits_BSV).mean()

  total = jax.jit(total)
  gradient_NH = jax.jit(jax.grad(total))(leaves[SLOPE])
  step, (up_N, down_N) = 1e-2, ([], [])
  for n in range(2):
    moved_NH = jnp.zeros((2, CONFIG.num_heads)).at[n, 0].set(step)
    up_N.append(total(leaves[SLOPE] + moved_NH))
    down_N.append(total(leaves[SLOPE] - moved_NH))
  slope_N = (np.asarray(up_N) - np.asarray(down_N)) / (2 * step)
  assert np.abs(slope_N).min() > 1e-3
  # A central difference of float32 sums.
  np.testing.assert_allclose(gradient_NH[:, 0], slope_N, rtol=0.05)


def test_a_drop_takes_what_was_learned_along(params, learning):
  config, dropped = drop_positional.drop_positional(LEARNED, learning)
  assert config == NOPE
  assert trees.flatten(dropped).keys() == trees.flatten(params).keys()
