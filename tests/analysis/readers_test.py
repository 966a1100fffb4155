"""What readers find in a model's own attention, against plain numpy."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention
from drope_jax.analysis import readers
from drope_jax.attention import weights
from drope_jax.model import forward_pass, transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Alibi, Pattern, Rope

S = 21
CONFIG = ModelConfig(
  vocab_size=31,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=S,
  positional=Pattern((Rope(), Alibi()), (None, 7)),
  qk_norm="qk",
  logit_scale=1.5,
  logit_soft_cap=3.0,
)
READERS = {
  "offsets": readers.ByOffset((0, 1, 4)),
  "diagonal": readers.OffsetBias(0),
  "previous": readers.OffsetBias(1),
  "far": readers.OffsetBias(4),
  "one": readers.OfQuery(S - 3),
  "first": readers.FirstKey(),
}


@pytest.fixture(scope="module")
def model():
  """Params, tokens, and the weights_NBHST of the formula, in float64."""
  params = transformer.init(CONFIG, jax.random.key(0))
  tokens_BS = jax.random.randint(jax.random.key(1), (2, S), 0, 31)
  inputs_N = transformer.attention_inputs(CONFIG, params, tokens_BS)
  found = []
  for layer in range(CONFIG.num_layers):
    inputs = jax.tree.map(operator.itemgetter(layer), inputs_N)
    logits_BKGST = attention.logits(
      inputs.q_BSHD,
      inputs.k_BSKD,
      attention.Mask(window=inputs.window),
      inputs.logit_scale * CONFIG.head_dim**-0.5,
      inputs.slopes_H,
      inputs.soft_cap,
    )
    p = np.exp(np.asarray(logits_BKGST, np.float64))
    found.append((p / p.sum(-1, keepdims=True)).reshape(2, 4, S, S))
  return params, tokens_BS, np.stack(found)


@pytest.fixture(scope="module")
def found(model):
  """What each reader finds, from one pass in blocks of four queries."""
  params, tokens_BS, _ = model
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(weights, "AT_ONCE", 2 * 4 * S * 4)
    _, captured = transformer.hidden(
      CONFIG,
      params,
      tokens_BS,
      capture=("weights",),
      reader=readers.Together(tuple(READERS.values())),
    )
  return dict(zip(READERS, captured["weights"], strict=True))


def _offset_weights(offset):
  """c_ST as the definition has it, written out."""
  c_ST = np.zeros((S, S))
  for i in range(max(offset, 1), S):
    c_ST[i, : i + 1] = -1 / i
    c_ST[i, i - offset] = 1
  return c_ST


@pytest.mark.parametrize(
  ("name", "offset"), [("diagonal", 0), ("previous", 1), ("far", 4)]
)
def test_a_bias_is_that_of_its_centered_weights(model, found, name, offset):
  *_, weights_NBHST = model
  c_ST = _offset_weights(offset)
  np.testing.assert_allclose(c_ST.sum(1), 0, atol=1e-12)
  want_NBH = (weights_NBHST * c_ST).sum((-1, -2)) / S
  # float32 sums of 231 weights.
  np.testing.assert_allclose(found[name], want_NBH, atol=2e-6)
  assert np.abs(want_NBH).max() > 0.01


def test_given_weights_are_read_like_those_of_an_offset(model):
  params, tokens_BS, weights_NBHST = model
  c_ST = np.tril(np.random.default_rng(0).normal(size=(S, S)))
  c_ST -= np.tril(c_ST.sum(1)[:, None] / np.arange(1, S + 1)[:, None])
  _, captured = transformer.hidden(
    CONFIG,
    params,
    tokens_BS,
    capture=("weights",),
    reader=readers.GivenBias(jnp.float32(c_ST)),
  )
  want_NBH = (weights_NBHST * c_ST).sum((-1, -2)) / S
  np.testing.assert_allclose(captured["weights"], want_NBH, atol=2e-6)


def test_weights_by_offset_of_the_first_key_and_of_one_query(model, found):
  *_, weights_NBHST = model
  for i, offset in enumerate((0, 1, 4)):
    diagonal = np.diagonal(weights_NBHST, -offset, -2, -1)
    np.testing.assert_allclose(
      found["offsets"][..., i], diagonal.mean(-1), atol=2e-6
    )
  one_NBHT = found["one"]
  np.testing.assert_allclose(one_NBHT, weights_NBHST[..., S - 3, :], atol=2e-6)
  np.testing.assert_allclose(
    found["first"], weights_NBHST[..., 1:, 0].mean(-1), atol=2e-6
  )
  assert np.all(one_NBHT[1, ..., : S - 9] == 0)  # The window of layer 1.


def test_extreme_heads_have_the_extreme_biases():
  diagonal_BHST = jnp.broadcast_to(jnp.eye(S), (1, 1, S, S))
  uniform_BHST = (
    jnp.tril(jnp.ones((1, 1, S, S))) / jnp.arange(1, S + 1)[:, None]
  )
  for weights_BHST, want in ((diagonal_BHST, (S - 1) / S), (uniform_BHST, 0)):
    reader = readers.OffsetBias(0)
    got = reader.read(reader.start(1, 1, S), weights_BHST, jnp.arange(S))
    assert float(got[0, 0]) == pytest.approx(want, abs=1e-6)


def test_where_weights_are_read_no_kernel_rotates(model):
  _, tokens_BS, _ = model
  config = dataclasses.replace(CONFIG, positional=Rope(), logit_soft_cap=None)
  start = functools.partial(
    forward_pass.start, config, tokens_BS, backend="flash_tpu"
  )
  assert start().kernel_rotates
  assert not start(
    capture=("weights",), reader=readers.OfQuery(0)
  ).kernel_rotates
