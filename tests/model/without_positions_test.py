"""What a model without positional embeddings cannot know, and RoPE can."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.model import transformer
from drope_jax.positional import Nope, Rope

S = 16


@pytest.mark.parametrize("scheme", [Nope(), Rope()])
def test_one_layer_without_positions_reads_its_prefix_as_a_set(
  config, random_params, forward, scheme
):
  config = dataclasses.replace(config, num_layers=1, positional=scheme)
  params = random_params(config)
  tokens_S = np.random.default_rng(0).permutation(config.vocab_size)[:S]
  shuffled_S = tokens_S.copy()
  shuffled_S[:-1] = np.random.default_rng(1).permutation(tokens_S[:-1])
  logits_BSV = forward(config, params, np.stack([tokens_S, shuffled_S]))
  changed_S = np.abs(logits_BSV[0] - logits_BSV[1]).max(-1)
  assert changed_S[:-1].max() > 0.1, "the shuffle moved no token"
  if scheme == Nope():
    # Sums of 16 terms in another order; logits are of order one.
    assert changed_S[-1] < 1e-5
  else:
    assert changed_S[-1] > 0.1, "Rope did not see the order either"


def _compiled(function):
  """Compiles it once for each config; results are in numpy."""
  jitted = jax.jit(function, static_argnums=0)
  return lambda *args: jax.device_get(jitted(*args))


@_compiled
def _attention(config, params, tokens_BS):
  """Returns the attention weights, and the gradient of a positional bias.

  The bias is the paper's A^c: the mean weight on a pattern c, here on a
  token's last four.
  """
  causal_ST = jnp.tri(S)
  recent_ST = causal_ST - jnp.tri(S, k=-4)

  def bias(params):
    qkv = transformer.attention_inputs(config, params, tokens_BS)
    group = config.num_heads // config.num_kv_heads
    k_NBSHD = jnp.repeat(qkv.k_BSKD, group, axis=3)
    logits_NBHST = jnp.einsum("nbshd,nbthd->nbhst", qkv.q_BSHD, k_NBSHD)
    weights_NBHST = jax.nn.softmax(
      jnp.where(causal_ST == 1, logits_NBHST / config.head_dim**0.5, -jnp.inf)
    )
    return jnp.mean(weights_NBHST * recent_ST), weights_NBHST

  gradient, weights_NBHST = jax.grad(bias, has_aux=True)(params)
  return weights_NBHST, gradient


@_compiled
def _logits(config, params, tokens_BS):
  """Returns the logits, and the gradient of a loss that sees each of them."""

  def loss(params):
    logits_BSV = transformer.forward(config, params, tokens_BS)
    direction_BSV = jax.random.normal(jax.random.key(0), logits_BSV.shape)
    return jnp.vdot(direction_BSV, logits_BSV), logits_BSV

  gradient, logits_BSV = jax.grad(loss, has_aux=True)(params)
  return logits_BSV, gradient


def _moved(gradient):
  """The largest gradient of any query or key weight."""
  flat = trees.flatten(gradient["layers"]["attention"])
  return max(
    np.abs(flat[f"{projection}/{name}"]).max()
    for projection in "qk"
    for name in ("kernel", "bias")
  )


def test_on_a_constant_sequence_a_model_without_positions_is_uniform(
  config, params, tokens_BS
):
  """The DroPE paper's Proposition.

  Rope escapes it in its attention, which is uneven and whose bias moves q and
  k. Its output is constant too, and no loss moves its q and k: whatever the
  weights, they mix values that are all the same.
  """
  nope = dataclasses.replace(config, positional=Nope())
  constant_BS, varied_BS = np.full((1, S), 7), tokens_BS[:1, :S]
  uniform_ST = np.tri(S) / np.arange(1, S + 1)[:, None]
  # What is zero in the reals is float32 rounding here, of terms of order one.
  weights_NBHST, bias_gradient = _attention(nope, params, constant_BS)
  assert np.abs(weights_NBHST - uniform_ST).max() < 1e-6
  assert _moved(bias_gradient) < 1e-6
  logits_BSV, loss_gradient = _logits(nope, params, constant_BS)
  assert np.ptp(logits_BSV, axis=1).max() < 1e-5
  assert _moved(loss_gradient) < 1e-4

  weights_NBHST, bias_gradient = _attention(config, params, constant_BS)
  assert np.abs(weights_NBHST - uniform_ST).max() > 0.1
  assert _moved(bias_gradient) > 1e-3
  logits_BSV, loss_gradient = _logits(nope, params, varied_BS)
  assert np.ptp(logits_BSV, axis=1).max() > 0.1
  assert _moved(loss_gradient) > 0.1
