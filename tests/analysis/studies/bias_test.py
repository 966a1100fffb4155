"""The bias and its gradients, and what the paper proves of them, on models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention
from drope_jax.analysis.studies import bias, bias_plots, spread
from drope_jax.model import transformer
from drope_jax.model.config import LayerGroup, ModelConfig
from drope_jax.positional import Kerple, Nope, Pattern, Rope

S = 12
CONFIG = ModelConfig(
  vocab_size=31,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=S,
  qk_norm="qk",
  layer_groups=(LayerGroup(1), LayerGroup(1, mlp_width=24)),
  positional=Pattern((Rope(), Nope()), (5, None)),
  embedding_scale=2.0,
)
PLAIN = dataclasses.replace(
  CONFIG, qk_norm="none", layer_groups=(), positional=Rope()
)
NOPE = dataclasses.replace(PLAIN, positional=Nope())


def _params(config):
  weights = transformer.init(config, jax.random.key(0))
  # Attention far from uniform.
  return jax.tree.map(lambda x: 2 * x if x.ndim > 2 else x, weights)


@pytest.fixture(scope="module")
def params():
  return _params(PLAIN)  # NOPE's are the same.


_hidden = jax.jit(transformer.hidden, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _weights(config, params, tokens_BS):
  """Attention's weights_NBHSS by the formula."""
  inputs_N = transformer.attention_inputs(config, params, tokens_BS)

  def of_layer(inputs):
    logits_BKGST = attention.logits(
      inputs.q_BSHD,
      inputs.k_BSKD,
      attention.Mask(window=inputs.window),
      inputs.logit_scale * config.head_dim**-0.5,
    )
    p_BKGST = jax.nn.softmax(logits_BKGST)
    return p_BKGST.reshape(len(tokens_BS), -1, *p_BKGST.shape[-2:])

  return jax.vmap(of_layer)(inputs_N)


def test_value_and_gradients_are_those_of_the_whole_model():
  params = _params(CONFIG)
  tokens_BS = jax.random.randint(jax.random.key(1), (2, S), 0, 31)
  c_SS = np.tril(np.random.default_rng(0).normal(size=(S, S)))
  c_SS -= np.tril(c_SS.sum(1)[:, None] / np.arange(1, S + 1)[:, None])
  found = bias.measure(CONFIG, params, tokens_BS, c_SS)

  def value_NBH(kernels):
    layers = {
      n: layer | {"attention": layer["attention"] | kernels[n]}
      for n, layer in params["layers"].items()
    }
    weights_NBHSS = _weights(CONFIG, params | {"layers": layers}, tokens_BS)
    return (weights_NBHSS * c_SS).sum((-1, -2)) / S

  kernels = {
    n: {name: layer["attention"][name] for name in "qk"}
    for n, layer in params["layers"].items()
  }
  gradients = jax.jit(jax.jacobian(value_NBH))(kernels)
  given = [row for row in found if row.pattern == bias.PATTERNS[2]]
  assert [row.layer for row in given] == [0, 1]
  for row in given:
    want_BH = value_NBH(kernels)[row.layer]
    np.testing.assert_allclose(row.value_H, want_BH.mean(0), atol=1e-6)
    own = gradients[str(row.layer)]
    for name, got_H in (("q", row.query_gradient_H), ("k", row.key_gradient_H)):
      jacobian_BH = own[name]["kernel"][row.layer]
      norm_BH = np.linalg.norm(jacobian_BH.reshape(2, 4, -1), axis=-1)
      np.testing.assert_allclose(got_H, norm_BH.mean(0), rtol=1e-4)
      assert min(got_H) > 1e-3


def test_a_layer_alone_does_what_it_does_in_its_model():
  config = dataclasses.replace(
    CONFIG, positional=Pattern((Kerple(), Nope()), (5, None))
  )
  params = _params(config)
  tokens_BS = jax.random.randint(jax.random.key(1), (2, S), 0, 31)
  embedded_BSM, outputs_NBSM = bias.states(config, params, tokens_BS)
  for layer, x_BSM in enumerate([embedded_BSM, outputs_NBSM[0]]):
    alone = bias.alone(config, params, layer, x_BSM)
    got_BSM = _hidden(*alone, jnp.arange(2 * S).reshape(2, S))
    np.testing.assert_allclose(got_BSM, outputs_NBSM[layer], atol=1e-5)


def test_without_positions_a_constant_sequence_is_uniform(params):
  """Proposition 3.2."""
  tokens_BS = jnp.full((1, S), 7)
  weights_NBHSS = _weights(NOPE, params, tokens_BS)
  uniform_SS = np.tril(np.ones((S, S))) / np.arange(1, S + 1)[:, None]
  # Sums of up to 32 equal products may differ in their last bits.
  np.testing.assert_allclose(
    weights_NBHSS, np.broadcast_to(uniform_SS, weights_NBHSS.shape), atol=1e-6
  )
  for row in bias.measure(NOPE, params, tokens_BS):
    for x_H in (row.value_H, row.query_gradient_H, row.key_gradient_H):
      np.testing.assert_allclose(x_H, 0, atol=1e-6)

  def loss(params):
    logits_BSV = transformer.forward(NOPE, params, tokens_BS)
    return -jax.nn.log_softmax(logits_BSV)[0, :, 3].mean()

  gradients = jax.jit(jax.grad(loss))(params)["layers"]["attention"]
  for name, is_zero in (("q", True), ("k", True), ("v", False)):
    largest = np.abs(gradients[name]["kernel"]).max()
    assert (largest < 1e-6) == is_zero
  x_SM = _hidden(NOPE, params, tokens_BS)[0]
  np.testing.assert_allclose(
    x_SM, jnp.broadcast_to(x_SM[0], x_SM.shape), atol=1e-5
  )


def test_with_rope_a_constant_sequence_has_a_bias_with_a_gradient(params):
  """Proposition 3.3, with the weights c of its proof, and Remark B.1."""
  tokens_BS = jnp.full((1, S), 7)
  weights_NHSS = _weights(PLAIN, params, tokens_BS)[:, 0]
  uniform_SS = np.tril(np.ones((S, S))) / np.arange(1, S + 1)[:, None]
  for layer, head in np.ndindex(*weights_NHSS.shape[:2]):
    c_SS = weights_NHSS[layer, head] - uniform_SS
    row = next(
      row
      for row in bias.measure(PLAIN, params, tokens_BS, c_SS)
      if (row.layer, row.pattern) == (layer, bias.PATTERNS[2])
    )
    assert row.value_H[head] > 1e-4
    assert row.query_gradient_H[head] > 1e-4
  x_SM = _hidden(PLAIN, params, tokens_BS)[0]
  np.testing.assert_allclose(
    x_SM, jnp.broadcast_to(x_SM[0], x_SM.shape), atol=1e-5
  )


def test_without_positions_a_small_spread_bounds_bias_and_gradients(params):
  """Theorem 3.4: linear in the embeddings' spread, alike for all lengths."""
  tokens_S = jax.random.randint(jax.random.key(2), (32,), 0, 31)
  nope = {
    (p.num_tokens, p.shrink): np.array(p.constants)
    for p in spread.measure(
      NOPE, params, tokens_S, lengths=(8, 32), shrinks=(1e-2, 1e-3)
    )
  }
  for length in (8, 32):
    # The next order of the spread is a hundredth of the first.
    np.testing.assert_allclose(nope[length, 1e-2], nope[length, 1e-3], rtol=0.1)
  assert np.all(nope[32, 1e-3] < 2 * nope[8, 1e-3])
  # With RoPE, states draw together as well, but not the bias.
  (rope,) = spread.measure(
    PLAIN, params, tokens_S, lengths=(8,), shrinks=(1e-3,)
  )
  assert rope.constants[0] < 2 * nope[8, 1e-3][0]
  assert max(rope.value_N) > 1e-3
  assert max(rope.gradient_N) > 1e-2


def test_the_prefix_spread_is_the_largest_distance_to_a_mean():
  h_SM = np.random.default_rng(0).normal(size=(9, 5)) + 100
  want = max(
    np.linalg.norm(h_SM[: i + 1].mean(0) - h_SM[j])
    for i in range(9)
    for j in range(i + 1)
  )
  assert float(spread.prefix_spread(jnp.float32(h_SM))) == pytest.approx(
    want, rel=1e-4
  )


def test_weights_that_are_not_centered_are_refused(params):
  tokens_BS = jnp.zeros((1, S), jnp.int32)
  for c_SS, message in (
    (np.eye(S), "sum to 0 .* got 1"),
    (np.zeros((S, S + 1)), r"12 x 12, got shape \(12, 13\)"),
  ):
    with pytest.raises(ValueError, match=message):
      bias.measure(PLAIN, params, tokens_BS, c_SS)
  with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
    bias.measure(PLAIN, params, tokens_BS[:, :1])


def test_plots_show_means_over_heads_with_intervals_over_seeds():
  def rows(x):
    return [bias.LayerBias(bias.PATTERNS[0], 0, (0, 2 * x), (x,), (x,))]

  figure = bias_plots.by_layer({"rope": [rows(1.0), rows(3.0)]}, ["value_H"])
  (ax,) = figure.axes
  assert ax.lines[0].get_ydata().tolist() == [2.0]
  low, high = ax.collections[0].get_paths()[0].get_extents().intervaly
  # Student's t of one degree of freedom, 12.706, times the error of the mean.
  assert (low, high) == pytest.approx((2 - 12.706, 2 + 12.706), rel=1e-3)
  along = bias_plots.along_training(
    [(0, rows(1.0)), (9, rows(3.0))], ["value_H"]
  )
  assert along.axes[0].lines[0].get_ydata().tolist() == [1.0, 3.0]


def test_the_legend_says_what_lines_and_crosses_are():
  points = [
    spread.Spread(tokens, shrink, (shrink, 2 * shrink), (shrink,), (shrink,))
    for tokens in (8, 32)
    for shrink in (1.0, 0.1)
  ]
  figure = bias_plots.spread({"rope": points})
  (legend,) = figure.legends
  found = {
    text.get_text(): handle
    for text, handle in zip(
      legend.get_texts(), legend.legend_handles, strict=True
    )
  }
  assert [*found] == ["rope", "at 32 tokens", "at 8 tokens"]
  assert found["at 8 tokens"].get_marker() == "x"
  assert found["at 32 tokens"].get_linestyle() == "-"
