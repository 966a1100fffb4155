"""QK norms against numpy, and how weights begin."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.model import forward_pass, layers, transformer
from drope_jax.model.forward_pass import QKV


def _rms_norm(x, gain, eps):
  """Float64, over the last axis."""
  x = np.asarray(x, np.float64)
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * np.asarray(gain)


@pytest.mark.parametrize("scope", ["joint", "head"])
@pytest.mark.parametrize("which", ["q", "k", "qk"])
def test_qk_norm_is_numpys(config, which, scope):
  config = dataclasses.replace(config, qk_norm=which, qk_norm_scope=scope)
  attention = layers.Attention(config, rngs=nnx.Rngs(0))
  rng = np.random.default_rng(0)
  B, S, D = 2, 5, config.head_dim
  raw = {
    name: np.float32(rng.normal(size=(B, S, heads, D)) * rng.uniform(1, 3, D))
    for name, heads in (("q", config.num_heads), ("k", config.num_kv_heads))
  }
  v_BSKD = jnp.ones((B, S, config.num_kv_heads, D))
  want = dict(raw)
  for name in which:
    norm = getattr(attention, f"{name}_norm")
    heads = raw[name].shape[2]
    assert norm.gain.shape == ((heads * D,) if scope == "joint" else (D,))
    gain = np.float32(rng.normal(size=norm.gain.shape))
    norm.gain[...] = jnp.asarray(gain)
    x = raw[name]
    if scope == "joint":  # All of a token's heads at once.
      x = x.reshape(B, S, heads * D)
    want[name] = _rms_norm(x, gain, config.norm_eps).reshape(raw[name].shape)
  got = attention.normalize(
    QKV(jnp.asarray(raw["q"]), jnp.asarray(raw["k"]), v_BSKD)
  )
  np.testing.assert_allclose(got.q_BSHD, want["q"], rtol=1e-5)
  np.testing.assert_allclose(got.k_BSKD, want["k"], rtol=1e-5)
  assert got.v_BSKD is v_BSKD


@pytest.mark.parametrize("placement", ["pre", "post", "both"])
def test_norms_stand_before_a_part_after_it_or_both(config, placement):
  """By the layer's formula, with numpy's norms around its own parts."""
  config = dataclasses.replace(config, norm_placement=placement)
  (group,) = config.groups
  layer = layers.Layer(config, group, rngs=nnx.Rngs(0))
  rng = np.random.default_rng(0)
  norms = []
  for name in ("attention", "mlp"):
    for place in ("", "_post"):
      norm = getattr(layer, f"{name}{place}_norm")
      if norm is None:
        norms.append(lambda x: x)
        continue
      gain = np.float32(1 + 0.3 * rng.normal(size=norm.gain.shape))
      norm.gain[...] = jnp.asarray(gain)
      norms.append(functools.partial(_rms_norm, gain=gain, eps=config.norm_eps))
  before, after, mlp_before, mlp_after = norms
  x_BSM = np.float32(rng.normal(size=(2, 5, config.width)))
  shared = forward_pass.start(config, x_BSM[..., 0])
  own = jax.tree.map(lambda x_N: x_N[0], shared.groups[0])
  layer_pass = forward_pass.LayerPass(shared, own)
  attended, _ = layer.attention(np.float32(before(x_BSM)), None, layer_pass)
  want = x_BSM + after(attended)
  want += mlp_after(layer.mlp(np.float32(mlp_before(want))))
  got, _ = layer(jnp.asarray(x_BSM), None, layer_pass)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("scale", [0.22, 1 / 6, 12.0])
def test_a_scale_of_bfloat16_is_rounded_with_the_product_alone(scale):
  torch = pytest.importorskip("torch")
  x = jax.random.normal(jax.random.key(0), (4, 64)).astype(jnp.bfloat16)
  got = layers.scaled(x, scale)
  assert got.dtype == jnp.bfloat16
  theirs = torch.tensor(np.asarray(x, np.float32)).bfloat16() * scale
  np.testing.assert_array_equal(
    np.asarray(got, np.float32), theirs.float().numpy()
  )


def test_the_residual_scale_is_not_rounded_to_the_streams_dtype(config):
  config = dataclasses.replace(config, residual_scale=0.22)
  (group,) = config.groups
  layer = layers.Layer(config, group, rngs=nnx.Rngs(0))
  kernels = nnx.state(layer, nnx.Param)
  nnx.update(
    layer, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), kernels)
  )
  rng = np.random.default_rng(0)
  x_BSM = jnp.asarray(rng.normal(size=(2, 5, config.width)), jnp.bfloat16)
  shared = forward_pass.start(config, x_BSM[..., 0])
  own = jax.tree.map(lambda x_N: x_N[0], shared.groups[0])
  layer_pass = forward_pass.LayerPass(shared, own)
  attended, _ = layer.attention(layer.attention_norm(x_BSM), None, layer_pass)
  assert attended.dtype == jnp.bfloat16
  want = x_BSM + (attended.astype(jnp.float32) * 0.22).astype(jnp.bfloat16)
  added = layer.mlp(layer.mlp_norm(want))
  want += (added.astype(jnp.float32) * 0.22).astype(jnp.bfloat16)
  got, _ = layer(x_BSM, None, layer_pass)
  np.testing.assert_array_equal(got, want)


def test_a_norm_of_bfloat16_is_float32_until_its_result():
  norm = layers.RMSNorm(64, 1e-5)
  x = jax.random.normal(jax.random.key(0), (4, 8, 64)).astype(jnp.bfloat16)
  got = norm(x)
  assert got.dtype == jnp.bfloat16
  want = _rms_norm(np.asarray(x, np.float32), np.ones(64), 1e-5)
  # One rounding: half an eps of each value, and room for a tie.
  np.testing.assert_allclose(
    np.asarray(got, np.float32), want, rtol=0.51 * jnp.finfo(x.dtype).eps
  )


def test_a_layer_norm_takes_the_mean_away_in_float32():
  norm = layers.LayerNorm(64, 1e-3, offset=1.0)
  rng = np.random.default_rng(0)
  gain, bias = (np.float32(rng.normal(size=64)) for _ in range(2))
  norm.gain[...], norm.bias[...] = gain, bias
  x = jnp.asarray(5 + rng.normal(size=(4, 8, 64)), jnp.bfloat16)
  got = norm(x)
  assert got.dtype == jnp.bfloat16
  y = np.asarray(x, np.float64)
  y -= y.mean(-1, keepdims=True)
  y /= np.sqrt(np.square(y).mean(-1, keepdims=True) + 1e-3)
  # One rounding to 8 bits, of values up to 8.
  np.testing.assert_allclose(
    np.asarray(got, np.float32), y * (gain + 1) + bias, rtol=2**-8, atol=1e-3
  )


def test_gains_begin_so_that_a_norm_only_normalizes():
  x = jax.random.normal(jax.random.key(0), (4, 8, 64))
  plain, offset = layers.RMSNorm(64, 1e-5), layers.RMSNorm(64, 1e-5, 1.0)
  np.testing.assert_array_equal(offset.gain[...], np.zeros(64))
  np.testing.assert_array_equal(offset(x), plain(x))


@pytest.fixture(scope="module")
def initial(config):
  wide = dataclasses.replace(
    config, width=96, num_layers=3, qk_norm="qk", norm_kind="layer"
  )
  init = jax.jit(transformer.init, static_argnums=0)
  return wide, *(trees.flatten(init(wide, jax.random.key(i))) for i in (0, 1))


def test_kernels_begin_by_their_inputs_and_smaller_into_the_residual_stream(
  initial,
):
  config, flat, _ = initial
  into_residual = {"layers/attention/o/kernel", "layers/mlp/down/kernel"}
  for path, leaf in flat.items():
    if path.endswith("kernel"):
      want = leaf.shape[-2] ** -0.5
      if path in into_residual:
        want /= (2 * config.num_layers) ** 0.5
      # Deviation of a deviation over n draws: 1 / sqrt(2 n); five of them.
      rtol = 5 / (2 * leaf.size) ** 0.5
      np.testing.assert_allclose(np.std(leaf), want, rtol=rtol, err_msg=path)


def test_gains_begin_at_one_and_biases_at_zero(initial):
  _, flat, _ = initial
  for path, leaf in flat.items():
    if path.endswith(("gain", "bias")):
      assert np.all(leaf == path.endswith("gain")), path


def test_layers_and_keys_begin_with_weights_of_their_own(initial):
  _, flat, other = initial
  kernels = [path for path in flat if path.endswith(("kernel", "table"))]
  for path in kernels:
    assert not np.any(flat[path] == other[path]), path
    if path.startswith("layers/"):
      first, second, third = flat[path]
      assert not np.any((first == second) | (second == third)), path
