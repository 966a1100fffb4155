"""What holds of every attention backend: the formula, and who sees whom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention
from drope_jax.attention import Mask, blockwise, reference

# 150 queries: a strip of 128 that takes four turns, and a strip of 22.
S, H, K, D = 150, 4, 2, 4
BACKENDS = {
  "reference": reference.attend,
  "blockwise": functools.partial(blockwise.attend, block=32),
}
EVERYTHING = np.iinfo(np.int32).max  # A window that hides nothing.


def _qkv(queries, keys, seed=0):
  rng = np.random.default_rng(seed)
  shapes = (1, queries, H, D), (1, keys, K, D), (1, keys, K, D)
  return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def _visible_ST(mask, keys):
  """The mask's three rules, written out in numpy."""
  q_pos_S1 = np.asarray(mask.q_pos_BS)[0, :, None]
  k_pos_T = q_pos_S1[:, 0]
  if mask.k_pos_BT is not None:
    k_pos_T = np.asarray(mask.k_pos_BT)[0]
  assert k_pos_T.shape == (keys,)
  visible_ST = (k_pos_T <= q_pos_S1) & (k_pos_T > q_pos_S1 - int(mask.window))
  if mask.segment_BS is not None:
    segment_S = np.asarray(mask.segment_BS)[0]
    visible_ST &= segment_S[:, None] == segment_S
  return visible_ST


def test_these_tests_cover_every_backend():
  assert set(BACKENDS) == set(attention.BACKENDS)


@pytest.fixture(scope="module", params=BACKENDS)
def attend(request):
  """Each backend, jitted; masks of one structure share a compilation."""
  return jax.jit(BACKENDS[request.param])


@pytest.fixture(scope="module", params=BACKENDS)
def influence(request):
  """Returns a function from a mask to |d out_i / d (k_j, v_j)|, as [S, T]."""
  backend = BACKENDS[request.param]

  @jax.jit
  def jacobian(q_BSHD, k_BTKD, v_BTKD, mask):
    def outputs_S(shift_2T):
      k_shift, v_shift = shift_2T[:, None, :, None, None]
      out_BSHD = backend(q_BSHD, k_BTKD + k_shift, v_BTKD + v_shift, mask, 0.5)
      return out_BSHD.sum((0, 2, 3))

    return jax.jacrev(outputs_S)(jnp.zeros((2, k_BTKD.shape[1])))

  def influence_ST(mask):
    keys = S if mask.k_pos_BT is None else mask.k_pos_BT.shape[1]
    gradient_S2T = jacobian(*_qkv(S, keys), mask)
    return np.abs(gradient_S2T).sum(1), _visible_ST(mask, keys)

  return influence_ST


def test_is_the_formula_in_numpy(attend):
  q_BSHD, k_BTKD, v_BTKD = _qkv(S, S)
  window, scale = 40, 0.7
  slopes_H = np.array([0.5, 0.25, 0.0, 0.01], np.float32)
  pos_BS = jnp.arange(S)[None]
  got_BSHD = attend(
    q_BSHD, k_BTKD, v_BTKD, Mask(pos_BS, window=window), scale, slopes_H
  )
  distance_ST = np.subtract.outer(np.arange(S), np.arange(S))
  visible_ST = (distance_ST >= 0) & (distance_ST < window)
  for h in range(H):
    q_SD, k_TD, v_TD = (
      np.asarray(x[0, :, head], np.float64)
      for x, head in ((q_BSHD, h), (k_BTKD, h // 2), (v_BTKD, h // 2))
    )
    logits_ST = scale * q_SD @ k_TD.T - slopes_H[h] * distance_ST
    weights_ST = np.where(visible_ST, np.exp(logits_ST), 0.0)
    weights_ST /= weights_ST.sum(-1, keepdims=True)
    # Float32 against float64: a few roundings of values up to 4.
    np.testing.assert_allclose(got_BSHD[0, :, h], weights_ST @ v_TD, atol=5e-6)


@pytest.mark.parametrize("window", [EVERYTHING, 37, 1])
@pytest.mark.parametrize("documents", [(S,), (50, 80, 20)])
def test_an_output_depends_on_exactly_the_keys_its_mask_shows(
  influence, window, documents
):
  segment_S = np.repeat(np.arange(len(documents)), documents)
  influence_ST, visible_ST = influence(
    Mask(
      jnp.arange(S)[None],
      segment_BS=jnp.asarray(segment_S)[None],
      window=jnp.int32(window),
    )
  )
  # Exactly zero where hidden; a visible key always moves its output.
  np.testing.assert_array_equal(influence_ST > 0, visible_ST)


@pytest.mark.parametrize("window", [EVERYTHING, 37])
def test_queries_see_cached_keys_up_to_their_own_position(influence, window):
  read = 60  # Tokens before these; ten slots of the cache are still empty.
  influence_ST, visible_ST = influence(
    Mask(
      read + jnp.arange(S)[None],
      k_pos_BT=jnp.arange(read + S + 10)[None],
      window=jnp.int32(window),
    )
  )
  np.testing.assert_array_equal(influence_ST > 0, visible_ST)
  assert not visible_ST[:, -10:].any() and visible_ST[-1, -11]


def test_a_window_of_one_returns_the_value(attend):
  q_BSHD, k_BTKD, v_BTKD = _qkv(S, S)
  mask = Mask(jnp.arange(S)[None], window=1)
  got_BSHD = attend(q_BSHD, k_BTKD, v_BTKD, mask, 0.5)
  np.testing.assert_array_equal(got_BSHD, jnp.repeat(v_BTKD, H // K, axis=2))


def test_alibi_decays_geometrically_where_q_is_zero(attend):
  _, k_BTKD, v_BTKD = _qkv(S, S)
  # Values are positions: an output is the mean position attended to.
  pos_1S11 = np.arange(S, dtype=np.float32)[None, :, None, None]
  slopes_H = np.array([1.0, 0.5, 0.25, 0.125], np.float32)
  out_BSHD = attend(
    np.zeros((1, S, H, D), np.float32),
    k_BTKD,
    np.broadcast_to(pos_1S11, v_BTKD.shape),
    Mask(np.arange(S)[None]),
    0.5,
    slopes_H,
  )
  # The mean distance under weights in proportion to ratio^distance.
  ratio_H = np.exp(-slopes_H)
  distance_H = S - 1 - np.asarray(out_BSHD)[0, -1, :, 0]
  np.testing.assert_allclose(distance_H, ratio_H / (1 - ratio_H), rtol=1e-4)


def test_an_unknown_backend_is_refused_with_the_names_that_exist():
  message = "one of reference, blockwise, got 'flash'. Name one of these."
  with pytest.raises(ValueError, match=message):
    attention.attend(
      *_qkv(2, 2), Mask(jnp.arange(2)[None]), 1.0, backend="flash"
    )


@pytest.mark.parametrize("name", attention.BACKENDS)
def test_attend_runs_the_backend_it_was_given(name):
  qkv, mask = _qkv(9, 9), Mask(jnp.arange(9)[None])
  np.testing.assert_array_equal(
    attention.attend(*qkv, mask, 0.5, backend=name),
    attention.BACKENDS[name](*qkv, mask, 0.5),
  )
