"""The blockwise path takes memory that grows with the length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.attention import Mask, blockwise, reference

BLOCK = 32
D = 8


def _temporary_bytes(attend, S, differentiate):
  """What XLA sets aside for one call, beside its inputs and outputs."""

  def run(q_BSHD, k_BTKD, v_BTKD):
    return attend(q_BSHD, k_BTKD, v_BTKD, Mask(), 0.5)[0]

  if differentiate:
    run = jax.grad(lambda *args, run=run: run(*args).sum(), argnums=(0, 1, 2))
  x = jax.ShapeDtypeStruct((1, S, 2, D), jnp.float32)
  compiled = jax.jit(run).lower(x, x, x).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("at_once", [0, 2**60])
def test_memory_grows_with_the_length_and_the_references_with_its_square(
  at_once,
):
  blocks = functools.partial(blockwise.attend, block=BLOCK, at_once=at_once)

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


def test_loops_over_heads_compute_what_they_do_at_once():
  rng = np.random.default_rng(0)
  q_BSHD = jnp.asarray(rng.normal(size=(2, 300, 6, D)), jnp.float32)
  k_BTKD, v_BTKD = jnp.asarray(rng.normal(size=(2, 2, 300, 2, D)), jnp.float32)

  def gradients(at_once):
    def total(*qkv):
      out = blockwise.attend(*qkv, Mask(), 0.5, at_once=at_once)[0]
      return jnp.square(out).sum()

    return jax.jit(jax.grad(total, (0, 1, 2)))(q_BSHD, k_BTKD, v_BTKD)

  for got, want in zip(gradients(0), gradients(2**60), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_heads_are_in_loops_on_a_cpu_alone():
  x = jax.ShapeDtypeStruct((1, 256, 2, D), jnp.float32)

  def loops(platform):
    def run(*qkv):
      return blockwise.attend(*qkv, Mask(), 0.5, at_once=0)[0]

    exported = jax.export.export(jax.jit(run), platforms=[platform])(x, x, x)
    return exported.mlir_module().count("stablehlo.while")

  assert loops("cpu") > 0
  assert loops("cuda") == loops("tpu") == 0
