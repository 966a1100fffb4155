"""The modules of one transformer layer, in Flax NNX.

Parameters are plain kernels [in, out]; heads are split after the projection,
so that the joint QK norm of the DroPE paper has all of a token's channels. The
axes B and S may be one, since each token is projected and normed alone.
Projections have the names that `remat` knows them by.
"""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from drope_jax.axes import Array
from drope_jax.model.config import ModelConfig


class Adapter(NamedTuple):
  """Matrices whose product is added to a kernel: [in, R] and [R, out]."""

  a: Array
  b: Array


class Linear(nnx.Module):
  """x @ kernel (+ bias) (+ x @ a @ b); kernel [in, out], bias [out].

  Kernels start normal with deviation gain / sqrt(in): 0.016 at width 4096,
  near the usual 0.02, and at the widths of small models an attention that
  sees something from the start. (With 0.02 at width 128 copying is not learnt
  in 1,000 steps; with this, in 450.)
  """

  def __init__(
    self,
    in_size: int,
    out_size: int,
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
    self.adapter = nnx.data(None)

  def __call__(self, x_BSM: Array) -> Array:
    y_BSM = x_BSM @ self.kernel[...].astype(x_BSM.dtype)
    if self.bias is not None:
      y_BSM += self.bias[...].astype(x_BSM.dtype)
    if self.adapter is not None:
      y_BSM += (x_BSM @ self.adapter.a) @ self.adapter.b
    return y_BSM


class RMSNorm(nnx.Module):
  """x / rms(x) * gain over the last axis, in float32, in x's dtype."""

  def __init__(self, size: int, eps: float):
    self.gain = nnx.Param(jnp.ones(size, jnp.float32))
    self.eps = eps

  def __call__(self, x_BSM: Array) -> Array:
    y_BSM = x_BSM.astype(jnp.float32)
    mean_BS1 = jnp.mean(jnp.square(y_BSM), axis=-1, keepdims=True)
    y_BSM *= jax.lax.rsqrt(mean_BS1 + self.eps)
    return _stored((y_BSM * self.gain[...]).astype(x_BSM.dtype))


class QKV(NamedTuple):
  """Queries, keys and values, heads split."""

  q_BSHD: Array
  k_BSKD: Array
  v_BSKD: Array


class Attention(nnx.Module):
  """Projections and norms around `attention.attend`."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    M, D = config.width, config.head_dim
    HD, KD = config.num_heads * D, config.num_kv_heads * D
    bias = config.qkv_bias
    self.q = Linear(M, HD, rngs, bias=bias)
    self.k = Linear(M, KD, rngs, bias=bias)
    self.v = Linear(M, KD, rngs, bias=bias)
    self.o = Linear(HD, M, rngs, gain=residual_gain(config))
    joint = config.qk_norm_scope == "joint"
    norm_q = RMSNorm(HD if joint else D, config.norm_eps)
    norm_k = RMSNorm(KD if joint else D, config.norm_eps)
    self.q_norm = nnx.data(norm_q if config.norms_q else None)
    self.k_norm = nnx.data(norm_k if config.norms_k else None)
    self.joint_norm = joint
    self.head_dim = D

  def project(self, x_BSM: Array) -> QKV:
    """Returns raw projections: before QK norm and positions."""
    return QKV(
      self._split(checkpoint_name(self.q(x_BSM), "query_proj")),
      self._split(checkpoint_name(self.k(x_BSM), "key_proj")),
      self._split(checkpoint_name(self.v(x_BSM), "value_proj")),
    )

  def normalise(self, qkv: QKV) -> QKV:
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
    if norm is None:
      return x_BSHD
    if self.joint_norm:
      return self._split(norm(_merge(x_BSHD)))
    return norm(x_BSHD)

  def _split(self, x_BSM: Array) -> Array:
    return x_BSM.reshape(*x_BSM.shape[:-1], -1, self.head_dim)


class SwiGLU(nnx.Module):
  """down(silu(gate x) * up x)."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    M, I = config.width, config.mlp_width
    self.gate = Linear(M, I, rngs)
    self.up = Linear(M, I, rngs)
    self.down = Linear(I, M, rngs, gain=residual_gain(config))

  def __call__(self, x_BSM: Array) -> Array:
    gate_BSI = checkpoint_name(self.gate(x_BSM), "mlpwi_0")
    up_BSI = checkpoint_name(self.up(x_BSM), "mlpwi_1")
    gate_BSI, up_BSI = _stored((gate_BSI, up_BSI))
    y_BSI = _stored(nnx.silu(gate_BSI) * up_BSI)
    return checkpoint_name(self.down(y_BSI), "mlpwo")


class Layer(nnx.Module):
  """Pre-norm attention and MLP, each added to the residual stream."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(config.width, config.norm_eps)
    self.attention = Attention(config, rngs)
    self.mlp_norm = RMSNorm(config.width, config.norm_eps)
    self.mlp = SwiGLU(config, rngs)

  def adapt(self, adapters: Mapping[str, Adapter]) -> None:
    """Adds adapters to projections, by their paths: "attention/q"."""
    for path, adapter in adapters.items():
      linear = functools.reduce(getattr, path.split("/"), self)
      linear.adapter = nnx.data(adapter)


def residual_gain(config: ModelConfig) -> float:
  """Returns the gain of kernels that write to the residual stream.

  Source: GPT-2, section 2.3: 1 / sqrt(number of residual writes).
  """
  return (2 * config.num_layers) ** -0.5


def _stored(x: Any) -> Any:
  """Returns x, computed once: it, and its gradient, are arrays in memory.

  Else XLA for TPUs computes them again in each tile of each matrix product that
  reads them, which then waits for exponentials.
  """
  return jax.lax.optimization_barrier(x)


def _merge(x_BSHD: Array) -> Array:
  return x_BSHD.reshape(*x_BSHD.shape[:-2], -1)
