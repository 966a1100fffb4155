"""A reader sees the weights that the reference multiplies the values by."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention
from drope_jax.attention import weights

B, S, H, K, D = 2, 37, 4, 2, 8


@dataclasses.dataclass(frozen=True)
class All:
  """Keeps every weight, weights_BHST."""

  num_keys: int

  def start(self, num_rows, num_heads, num_queries):
    return jnp.zeros((num_rows, num_heads, num_queries, self.num_keys))

  def read(self, found, weights_BHcT, query_c):
    return found.at[:, :, query_c].set(weights_BHcT)


SEGMENT_BS = (
  np.repeat([[0, 1, 2]], B, 0).repeat([15, 20, 2], 1).astype(np.int32)
)
CASES = {
  "plain": {},
  "packed, a window, a cap": {
    "mask": attention.Mask(None, 9, SEGMENT_BS, SEGMENT_BS),
    "soft_cap": 1.5,
  },
  "biases, a scale for each query": {
    "bias_HT": np.random.default_rng(1).normal(size=(H, S)).astype(np.float32),
    "slopes_H": np.linspace(0, 1, H, dtype=np.float32),
    "logit_scale": np.linspace(0.5, 3, B * S, dtype=np.float32).reshape(B, S),
  },
  "behind a cache of other lengths": {
    "mask": attention.Mask(np.array([11, 3], np.int32)),
    "T": S + 11,
  },
}


def _inputs(T=S):
  rng = np.random.default_rng(0)
  shapes = [(S, H), (T, K), (T, K)]
  return [
    jnp.asarray(rng.normal(size=(B, *shape, D)), jnp.float32)
    for shape in shapes
  ]


# Queries a block: with a rest, one, and all.
@pytest.mark.parametrize(
  ("case", "block"), [*((c, 10) for c in CASES), ("plain", 1), ("plain", S)]
)
def test_the_weights_give_the_references_output_and_gradient(
  case, block, monkeypatch
):
  given = {"mask": attention.Mask(), "logit_scale": 1.0} | CASES[case]
  q_BSHD, k_BTKD, v_BTKD = _inputs(T := given.pop("T", S))
  monkeypatch.setattr(weights, "AT_ONCE", B * H * T * block)

  def read(q_BSHD, k_BTKD):
    weights_BHST = attention.read_weights(All(T), q_BSHD, k_BTKD, **given)
    each_BHTD = v_BTKD.repeat(H // K, axis=2).transpose(0, 2, 1, 3)
    return (weights_BHST @ each_BHTD).transpose(0, 2, 1, 3)

  def reference(q_BSHD, k_BTKD):
    return attention.attend(q_BSHD, k_BTKD, v_BTKD, **given)

  @jax.jit
  def both(q_BSHD, k_BTKD):
    want, of_want = jax.vjp(reference, q_BSHD, k_BTKD)
    got, of_got = jax.vjp(read, q_BSHD, k_BTKD)
    return (got, *of_got(want)), (want, *of_want(want))

  got, want = both(q_BSHD, k_BTKD)
  # float32 sums of up to 48 terms in another order.
  for a, b, atol in zip(got, want, (2e-6, 2e-5, 2e-5), strict=True):
    np.testing.assert_allclose(a, b, atol=atol)
    assert np.abs(b).max() > 1e-2


def test_16k_tokens_are_read_in_blocks():
  T, heads = 16_384, 8

  class Sums:
    def start(self, num_rows, num_heads, num_queries):
      return jnp.zeros((num_rows, num_heads, T))

    def read(self, found, weights_BHcT, query_c):
      return found + weights_BHcT.sum(2)

  def sums(q_BSHD, k_BTKD):
    return attention.read_weights(
      Sums(), q_BSHD, k_BTKD, attention.Mask(), logit_scale=1.0
    ).sum()

  x = jax.ShapeDtypeStruct((1, T, heads, D), jnp.float32)
  compiled = jax.jit(jax.value_and_grad(sums, (0, 1))).lower(x, x).compile()
  all_weights = 4 * heads * T * T  # 8 GiB.
  temporaries = compiled.memory_analysis().temp_size_in_bytes
  assert 4 * weights.AT_ONCE < temporaries < all_weights / 32
