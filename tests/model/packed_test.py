"""Packed matrices multiply as arrays do, and are read where they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.inference import choice, decode
from drope_jax.model import packed, transformer
from drope_jax.model.config import ModelConfig

KERNEL, TABLE = "layers/mlp/up/kernel", "embed/table"


def _rounded(matrix, dtype, axis):
  """Returns a matrix rounded as it should be held, along `axis` if to int8."""
  w = np.asarray(matrix, np.float32)
  if dtype == "float32":
    return matrix
  if dtype == "bfloat16":
    return jnp.asarray(w).astype(jnp.bfloat16).astype(jnp.float32)
  step = np.abs(w).max(axis=axis, keepdims=True) / 127
  return jnp.asarray(np.round(w / step) * step)


def _normal(*shape):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("dtype", packed.DTYPES)
@pytest.mark.parametrize("tokens", [1, 3, 300])
def test_a_product_is_that_of_the_rounded_matrix(dtype, tokens):
  kernel_MI, x_1SM = _normal(16, 24), _normal(1, tokens, 16)
  held = packed.pack(KERNEL, kernel_MI, dtype)
  assert held.shape == (16, 24)
  want = _rounded(kernel_MI, dtype, -2)
  if dtype != "float32":
    assert jnp.abs(want - kernel_MI).max() > 1e-3
  np.testing.assert_allclose(
    packed.product(x_1SM, held), x_1SM @ want, atol=1e-5
  )


@pytest.mark.parametrize("dtype", packed.DTYPES)
def test_a_table_is_looked_up_and_multiplied_alike(dtype):
  table_VM, tokens_BS = _normal(20, 8), jnp.asarray([[3, 19], [0, 7]])
  held = packed.pack(TABLE, table_VM, dtype)
  want = _rounded(table_VM, dtype, -1)
  got = packed.lookup(held, tokens_BS)
  np.testing.assert_allclose(got, want[tokens_BS], atol=1e-6)
  np.testing.assert_allclose(
    packed.product(got, held.T), got @ want.T, atol=1e-5
  )


@pytest.mark.parametrize("dtype", packed.DTYPES)
def test_a_matrix_of_many_inputs_is_not_transposed(dtype):
  kernel_MI = _normal(4096, 3)
  held = packed.pack(KERNEL, kernel_MI, dtype)
  assert not held.transposed
  got = packed.product(kernel_MI.T, held)
  want = kernel_MI.T @ kernel_MI
  # A sum of 4,096 products, of numbers rounded to 1/256.
  np.testing.assert_allclose(got, want, atol=5e-5 if dtype == "float32" else 8)


def test_gains_are_not_packed():
  assert packed.pack("final_norm/gain", jnp.ones(4), "int8").dtype == "float32"


@pytest.mark.skipif(
  jax.__version_info__ >= (0, 11),
  reason="since jaxlib 0.11 a copy is faster than what needs none",
)
@pytest.mark.parametrize("dtype", packed.DTYPES)
def test_decoding_one_token_copies_no_layer(dtype):
  config = ModelConfig(
    vocab_size=512,
    num_layers=3,
    width=256,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mlp_width=512,
    context_tokens=32,
    tied_embeddings=True,
  )

  def temporaries(make):
    params = jax.eval_shape(
      lambda: trees.map_with_path(
        make, transformer.init(config, jax.random.key(0))
      )
    )
    tokens_BS, one_B = jnp.zeros((1, 8), jnp.int32), jnp.ones(1)
    rows = jax.eval_shape(
      lambda p: decode.start(
        config,
        None,
        p,
        tokens_BS,
        jnp.full(1, 8),
        one_B,
        max_tokens=16,
        backend="blockwise",
      ),
      params,
    )
    lowered = decode.advance.lower(
      config,
      None,
      params,
      rows,
      one_B,
      choice.GREEDY.arrays(),
      jax.random.split(jax.random.key(0), 1),
      jnp.int32(8),
      steps=8,
      end_ids=(0,),
      backend="blockwise",
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes

  smallest_kernel = 4 * 256 * 128
  assert temporaries(lambda path, leaf: leaf) > 8 * smallest_kernel
  assert (
    temporaries(lambda path, leaf: packed.pack(path, leaf, dtype))
    < smallest_kernel
  )
