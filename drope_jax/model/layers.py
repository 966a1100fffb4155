"""The modules of one transformer layer, in Flax NNX.

Kernels are [in, out], and heads are split after the projection, so that a joint
QK norm has all of a token's channels. B and S may be joined into one axis,
since each token is projected and normalized alone. `checkpoint_name` gives each
projection the name that the policies of `remat` use.
"""

import functools
from typing import Any

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from drope_jax.axes import Array
from drope_jax.model import packed
from drope_jax.model.cache import Cache
from drope_jax.model.config import LayerGroup, ModelConfig
from drope_jax.model.forward_pass import QKV, LayerPass
from drope_jax.positional import pattern as patterns


class Linear(nnx.Module):
  """x @ kernel (+ bias) (+ x @ lora_a @ lora_b); kernel [in, out], bias [out].

  Kernels start normal with deviation gain / sqrt(in). At width 4096 that is
  0.016, near the usual 0.02. In small models it is larger, which they need: at
  width 128 they learn to copy in 450 steps, and with 0.02 not in 1,000.
  """

  def __init__(
    self,
    in_size: int,
    out_size: int,
    *,
    rngs: nnx.Rngs,
    gain: float = 1.0,
    bias: bool = False,
  ):
    std = gain * in_size**-0.5
    self.kernel = nnx.Param(
      std * jax.random.normal(rngs.params(), (in_size, out_size), jnp.float32)
    )
    self.bias = nnx.data(
      nnx.Param(jnp.zeros(out_size, jnp.float32)) if bias else None
    )
    self.lora_a, self.lora_b = nnx.data(None), nnx.data(None)

  def __call__(self, x_BSM: Array) -> Array:
    y_BSM = packed.product(x_BSM, self.kernel.get_value())
    if self.bias is not None:
      y_BSM += self.bias[...].astype(x_BSM.dtype)
    if self.lora_a is not None:
      y_BSM += (x_BSM @ self.lora_a[...]) @ self.lora_b[...]
    return y_BSM


class RMSNorm(nnx.Module):
  """x / rms(x) * (gain + offset) over the last axis, in float32, in x's dtype.

  Gains start so that their sum with the offset is 1.
  """

  def __init__(self, size: int, eps: float, offset: float = 0.0):
    self.gain = nnx.Param(jnp.full(size, 1 - offset, jnp.float32))
    self.eps = eps
    self.offset = offset

  def __call__(self, x_BSM: Array) -> Array:
    y_BSM = x_BSM.astype(jnp.float32)
    mean_BS1 = jnp.mean(jnp.square(y_BSM), axis=-1, keepdims=True)
    y_BSM *= jax.lax.rsqrt(mean_BS1 + self.eps)
    gain_M = self.gain[...]
    if self.offset:
      gain_M = gain_M.astype(jnp.float32) + self.offset
    return _stored((y_BSM * gain_M).astype(x_BSM.dtype))


class LayerNorm(nnx.Module):
  """`RMSNorm` of the differences from the mean, with a bias, which starts at 0.

  Source: Ba et al. 2016 (arXiv:1607.06450).
  """

  def __init__(self, size: int, eps: float, offset: float = 0.0):
    self.gain = nnx.Param(jnp.full(size, 1 - offset, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(size, jnp.float32))
    self.eps = eps
    self.offset = offset

  def __call__(self, x_BSM: Array) -> Array:
    y_BSM = x_BSM.astype(jnp.float32)
    y_BSM -= jnp.mean(y_BSM, axis=-1, keepdims=True)
    variance_BS1 = jnp.mean(jnp.square(y_BSM), axis=-1, keepdims=True)
    y_BSM *= jax.lax.rsqrt(variance_BS1 + self.eps)
    gain_M, bias_M = (
      x_M[...].astype(jnp.float32) for x_M in (self.gain, self.bias)
    )
    y_BSM = y_BSM * (gain_M + self.offset) + bias_M
    return _stored(y_BSM.astype(x_BSM.dtype))


Norm = RMSNorm | LayerNorm


class Attention(nnx.Module):
  """Projections and QK norms around the attention of a forward pass."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    M, D = config.width, config.head_dim
    HD, KD = config.num_heads * D, config.num_kv_heads * D
    bias = config.qkv_bias
    self.q = Linear(M, HD, rngs=rngs, bias=bias)
    self.k = Linear(M, KD, rngs=rngs, bias=bias)
    self.v = Linear(M, KD, rngs=rngs, bias=bias)
    self.o = Linear(
      HD, M, rngs=rngs, gain=residual_gain(config), bias=config.o_bias
    )
    joint = config.qk_norm_scope == "joint"
    q_size, k_size = (HD, KD) if joint else (D, D)
    self.q_norm = _qk_norm(config, q_size) if config.norms_q else None
    self.k_norm = _qk_norm(config, k_size) if config.norms_k else None
    plan = patterns.layer_plan(config.positional, config.num_layers)
    self.positions = nnx.Dict()
    if plan.learner is not None:
      learned = plan.learner.init(config.num_heads, rngs.params())
      self.positions = nnx.Dict(jax.tree.map(nnx.Param, learned))
    self.joint_norm = joint
    self.head_dim = D

  def __call__(
    self, x_BSM: Array, cache: Cache | None, layer_pass: LayerPass
  ) -> tuple[Array, Cache | None]:
    """Returns what attention adds to the residual stream, and the cache."""
    raw = QKV(*map(layer_pass.shared.split, self.project(x_BSM)))
    layer_pass.capture("projections", raw)
    learned = {name: param[...] for name, param in self.positions.items()}
    out_BSHD, cache = layer_pass.attend(self.normalize(raw), cache, learned)
    return self.output(layer_pass.shared.join(out_BSHD)), cache

  def project(self, x_BSM: Array) -> QKV:
    """Returns raw projections: before QK norm and positions."""
    return QKV(
      self._split(checkpoint_name(self.q(x_BSM), "query_proj")),
      self._split(checkpoint_name(self.k(x_BSM), "key_proj")),
      self._split(checkpoint_name(self.v(x_BSM), "value_proj")),
    )

  def normalize(self, qkv: QKV) -> QKV:
    """Returns the projections with QK norm, jointly or head by head."""
    return QKV(
      self._norm(self.q_norm, qkv.q_BSHD),
      self._norm(self.k_norm, qkv.k_BSKD),
      qkv.v_BSKD,
    )

  def output(self, out_BSHD: Array) -> Array:
    """Returns the heads' outputs projected into the residual stream."""
    return checkpoint_name(self.o(_merge(out_BSHD)), "out_proj")

  def _norm(self, norm: RMSNorm | None, x_BSHD: Array) -> Array:
    if norm is None or not self.joint_norm:
      return _normalized(norm, x_BSHD)
    return self._split(norm(_merge(x_BSHD)))

  def _split(self, x_BSM: Array) -> Array:
    return x_BSM.reshape(*x_BSM.shape[:-1], -1, self.head_dim)


class MLP(nnx.Module):
  """down(activation(gate x) * up x): SwiGLU or GeGLU.

  A model without gates has down(activation(up x)).
  """

  def __init__(self, config: ModelConfig, group: LayerGroup, *, rngs: nnx.Rngs):
    M, I = config.width, group.mlp_width
    # `ModelConfig.groups` has filled them in.
    assert I is not None and group.mlp_activation is not None
    bias = config.mlp_bias
    self.gate = nnx.data(
      Linear(M, I, rngs=rngs, bias=bias) if config.gated_mlp else None
    )
    self.up = Linear(M, I, rngs=rngs, bias=bias)
    self.down = Linear(I, M, rngs=rngs, gain=residual_gain(config), bias=bias)
    self.activation = {
      "silu": nnx.silu,
      "gelu_tanh": functools.partial(nnx.gelu, approximate=True),
      "gelu": functools.partial(nnx.gelu, approximate=False),
    }[group.mlp_activation]

  def __call__(self, x_BSM: Array) -> Array:
    return checkpoint_name(self.down(self._hidden(x_BSM)), "mlpwo")

  def _hidden(self, x_BSM: Array) -> Array:
    if self.gate is None:
      up_BSI = _stored(checkpoint_name(self.up(x_BSM), "mlpwi_1"))
      return _stored(self.activation(up_BSI))
    gate_BSI = checkpoint_name(self.gate(x_BSM), "mlpwi_0")
    up_BSI = checkpoint_name(self.up(x_BSM), "mlpwi_1")
    gate_BSI, up_BSI = _stored((gate_BSI, up_BSI))
    return _stored(self.activation(gate_BSI) * up_BSI)


class Layer(nnx.Module):
  """Attention and an MLP, each added to the residual stream.

  A norm stands before each of them, after it, or both.
  """

  def __init__(self, config: ModelConfig, group: LayerGroup, *, rngs: nnx.Rngs):
    def norm_if(*placements: str) -> Norm | None:
      return norm(config) if group.norm_placement in placements else None

    self.attention_norm = norm_if("pre", "both")
    self.attention = Attention(config, rngs=rngs)
    self.attention_post_norm = norm_if("post", "both")
    self.mlp_norm = norm_if("pre", "both")
    self.mlp = MLP(config, group, rngs=rngs)
    self.mlp_post_norm = norm_if("post", "both")
    self.parallel = config.parallel_residual
    self.residual_scale = config.residual_scale

  def __call__(
    self, x_BSM: Array, cache: Cache | None, layer_pass: LayerPass
  ) -> tuple[Array, Cache | None]:
    """Returns the residual stream after this layer, and the cache."""
    y_BSM = _normalized(self.attention_norm, x_BSM)
    y_BSM, cache = self.attention(y_BSM, cache, layer_pass)
    before_BSM = x_BSM
    y_BSM = _normalized(self.attention_post_norm, y_BSM)
    x_BSM += scaled(y_BSM, self.residual_scale)
    read_BSM = before_BSM if self.parallel else x_BSM
    y_BSM = self.mlp(_normalized(self.mlp_norm, read_BSM))
    y_BSM = _normalized(self.mlp_post_norm, y_BSM)
    x_BSM += scaled(y_BSM, self.residual_scale)
    layer_pass.capture("outputs", layer_pass.shared.split(x_BSM))
    return x_BSM, cache


def scaled(x: Array, scale: float) -> Array:
  """Returns x * scale in x's dtype, which rounds the product but not `scale`.

  0.22 in bfloat16 is too small by 0.12%.
  """
  return x if scale == 1 else (x.astype(jnp.float32) * scale).astype(x.dtype)


def norm(config: ModelConfig) -> Norm:
  """Returns a norm of the residual stream, as the model has them."""
  kind: type[Norm] = LayerNorm if config.norm_kind == "layer" else RMSNorm
  return kind(config.width, config.norm_eps, config.norm_gain_offset)


def _qk_norm(config: ModelConfig, size: int) -> RMSNorm:
  return RMSNorm(size, config.norm_eps, config.norm_gain_offset)


def residual_gain(config: ModelConfig) -> float:
  """Returns the gain of the kernels whose output the residual stream adds.

  Source: GPT-2, section 2.3: 1 / sqrt(number of residual writes).
  """
  return (2 * config.num_layers) ** -0.5


def _normalized(norm: Norm | None, x_BSM: Array) -> Array:
  return x_BSM if norm is None else norm(x_BSM)


def _stored(x: Any) -> Any:
  """Returns x, which XLA then computes once and stores, as its gradient.

  XLA for TPUs would otherwise compute them again in each tile of each matrix
  product that reads them, which then waits for exponentials.
  """
  return jax.lax.optimization_barrier(x)


def _merge(x_BSHD: Array) -> Array:
  return x_BSHD.reshape(*x_BSHD.shape[:-2], -1)
