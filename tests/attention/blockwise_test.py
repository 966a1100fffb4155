"""The blockwise path is the reference, in memory that grows with the length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.attention import Mask, blockwise, reference

BLOCK = 32
H, D = 4, 8


def _case(K, S, T=None, dtype=jnp.float32, slopes_H=None, scale=0.5, **mask):
  """Arguments of `attend`, and the cotangent of its result."""
  rng = np.random.default_rng(0)
  shapes = [(2, S, H, D), (2, T or S, K, D), (2, T or S, K, D), (2, S, H, D)]
  *qkv, cotangent_BSHD = (
    jnp.asarray(rng.normal(size=s), dtype) for s in shapes
  )
  return qkv, cotangent_BSHD, Mask(**mask), scale, slopes_H


SEGMENTS_BS = jnp.asarray(
  np.stack([np.arange(150) // 40, np.arange(150) // 75])
)
CASES = {
  "MHA, all blocks whole": _case(4, 256),
  "GQA, ALiBi, a traced window and scale, ragged": _case(
    2,
    150,
    slopes_H=jnp.array([0.5, 0.25, 0.0, 0.01]),
    scale=jnp.float32(0.9),
    window=jnp.int32(37),
  ),
  "MQA, packed documents": _case(
    1, 150, q_segment_BS=SEGMENTS_BS, k_segment_BT=SEGMENTS_BS
  ),
  "bfloat16": _case(2, 150, dtype=jnp.bfloat16),
  "more keys than queries": _case(
    2, 70, T=100, offset_B=jnp.array([30, 11]), window=50
  ),
  "one query": _case(2, 1),
}


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradients(attend, qkv, cotangent_BSHD, mask, scale, slopes_H):
  out_BSHD, pull_back = jax.vjp(
    lambda q, k, v: attend(q, k, v, mask, scale, slopes_H)[0], *qkv
  )
  return out_BSHD, *pull_back(cotangent_BSHD)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference_in_value_and_gradient(name):
  blocks = functools.partial(blockwise.attend, block=BLOCK)
  got = _value_and_gradients(blocks, *CASES[name])
  want = _value_and_gradients(reference.attend, *CASES[name])
  for ours, theirs in zip(got, want, strict=True):
    assert ours.dtype == theirs.dtype
    ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
    # Sums of up to 300 terms in another order. In bfloat16 each side rounds
    # weights and results once: two roundings of the largest value.
    eps = jnp.finfo(CASES[name][1].dtype).eps
    roundings = 20 if eps < 1e-6 else 2
    size = max(1.0, np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, atol=roundings * eps * size)
  assert all(np.any(gradient) for gradient in want) or name == "one query"


def _temporary_bytes(attend, S, differentiate):
  """What XLA sets aside for one call, beside its inputs and outputs."""

  def run(q_BSHD, k_BTKD, v_BTKD):
    return attend(q_BSHD, k_BTKD, v_BTKD, Mask(), 0.5)[0]

  if differentiate:
    run = jax.grad(lambda *args, run=run: run(*args).sum(), argnums=(0, 1, 2))
  x = jax.ShapeDtypeStruct((1, S, 2, D), jnp.float32)
  compiled = jax.jit(run).lower(x, x, x).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length_and_the_references_with_its_square():
  blocks = functools.partial(blockwise.attend, block=BLOCK)

  def growth(attend, differentiate):
    short, long = (
      _temporary_bytes(attend, S, differentiate) for S in (1024, 2048)
    )
    return long / short

  assert growth(blocks, differentiate=True) < 2.2
  square = growth(reference.attend, differentiate=False)
  assert square > 3.5, "the measure does not see the square"


def test_by_default_a_few_blocks_of_logits_are_held_at_once():
  S = 4096
  block_bytes = 2 * 512 * S * 4  # Two heads, 512 queries, float32.
  assert _temporary_bytes(blockwise.attend, S, False) < 3 * block_bytes
