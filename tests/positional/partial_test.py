"""A partial scheme rotates as its whole one on fast pairs, and not beyond."""

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention
from drope_jax.positional import PartialRope, Rope, Yarn, partial

D = 16


def _rotated(scheme, x_BSHD):
  pos_BS = jnp.arange(x_BSHD.shape[1])[None] + 3
  cos_S1D, sin_S1D = scheme.rotation(pos_BS, D)[0, :, :, None]
  return np.asarray(attention.rotate(x_BSHD, cos_S1D, sin_S1D))


def test_fast_pairs_rotate_as_before_and_slow_pairs_do_not():
  x_BSHD = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 2, D)))
  whole, rope = _rotated(Rope(100.0), x_BSHD), PartialRope(Rope(100.0), 5)
  got = _rotated(rope, x_BSHD)
  fast, slow = np.r_[:5, 8:13], np.r_[5:8, 13:16]
  np.testing.assert_array_equal(got[..., fast], whole[..., fast])
  np.testing.assert_array_equal(got[..., slow], x_BSHD[..., slow])
  assert np.abs(whole[..., slow] - x_BSHD[..., slow]).max() > 0.1


def test_all_pairs_are_the_whole_scheme_with_its_factor():
  yarn = Yarn(factor=4.0, trained_tokens=64)
  scheme = PartialRope(yarn, D // 2)
  x_BSHD = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 2, D)))
  np.testing.assert_array_equal(
    _rotated(scheme, x_BSHD), _rotated(yarn, x_BSHD)
  )
  assert scheme.attention_factor == yarn.attention_factor > 1.1


@pytest.mark.parametrize(
  ("theta", "head_dim", "context_tokens", "pairs"),
  [
    (1e4, 128, 4096, 46),  # Llama 2 7B
    (1e4, 64, 2048, 21),  # SmolLM 360M
    (1e5, 64, 8192, 20),  # SmolLM2 135M
    (1e6, 64, 1024, 12),  # Qwen2 0.5B, at the paper's context
  ],
)
def test_the_pairs_that_complete_a_rotation(
  theta, head_dim, context_tokens, pairs
):
  rope = Rope(theta)
  assert partial.complete_pairs(rope, head_dim, context_tokens) == pairs
  # Counted by walking: the last pair's angle passes 2 pi, the next one's not.
  angle_F = context_tokens * rope.frequencies(head_dim)
  assert angle_F[pairs - 1] >= 2 * np.pi > angle_F[pairs]


def test_pairs_that_are_not_there_are_refused():
  with pytest.raises(ValueError, match="at least 1 pair that rotates, got 0"):
    PartialRope(Rope(), 0)
  with pytest.raises(ValueError, match="half of head_dim 16, got 9"):
    PartialRope(Rope(), 9).frequencies(D)
