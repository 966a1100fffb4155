"""Next-token cross-entropy, whose logits never exist whole.

A device takes its tokens in chunks, each from hidden states to loss *and*
gradient, so that the backward pass neither keeps logits nor makes them again:
three matrix products, as without chunks, and one more for a teacher's logits.
Under `tensor` a device holds its share of the vocabulary alone. The kernel's
gradient stays a device's own until the last chunk, and is then summed over
devices, once.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from drope_jax import sharding, softcapping
from drope_jax.axes import Array

CHUNK_TOKENS = 2048
"""Enough for matrix products at full speed: 0.4 GB of logits at V = 49k."""


@dataclasses.dataclass(frozen=True)
class _Options:
  mesh: Mesh
  chunk_tokens: int
  z_loss: float
  teacher_weight: float
  soft_cap: float | None


def summed(
  mesh: Mesh,
  x_BSM: Array,
  kernel_MV: Array,
  targets_BS: Array,
  weights_BS: Array,
  teacher: tuple[Array, Array] | None = None,
  *,
  chunk_tokens: int = CHUNK_TOKENS,
  z_loss: float = 0.0,
  teacher_weight: float = 1.0,
  soft_cap: float | None = None,
) -> tuple[Array, Array, Array | None]:
  """Returns sums over tokens, times their weights: objective, nats, and KL.

  The objective is -log p(target) + z_loss * lse^2, lse the logits' log-sum-exp.
  With a teacher it is teacher_weight * KL(teacher || p) + (1 - teacher_weight)
  * -log p(target) + z_loss * lse^2. The nats are -log p(target), the KL is None
  without a teacher; no gradient passes through either, nor to the teacher.
  Logits, softmax and sums are float32; the logits' gradient is rounded to x's
  dtype.

  Args:
    mesh: where the arrays lie: tokens as `sharding.BATCH`, the kernel as
      "head/kernel".
    x_BSM, kernel_MV: see `transformer.head`.
    targets_BS: int32.
    weights_BS: float32.
    teacher: another model's x_BSM and kernel_MV for the same tokens, of the
      same vocabulary; they lie as the first do.
    chunk_tokens: whose logits a device holds at once, at most; a teacher's are
      as many again.
    z_loss: its coefficient.
    teacher_weight: see above; without a teacher it is not read.
    soft_cap: see `ModelConfig.final_logit_soft_cap`; the teacher's is the same.

  Source: z-loss, PaLM (arXiv:2204.02311), section 5; a teacher's distribution
  as target, Hinton et al. (arXiv:1503.02531), at a temperature of 1.
  """
  options = _Options(mesh, chunk_tokens, z_loss, teacher_weight, soft_cap)
  return _summed(options, x_BSM, kernel_MV, targets_BS, weights_BS, teacher)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(options, *arrays):
  return _on_devices(options, False, *arrays)[0]


def _summed_forward(options, *arrays):
  return _on_devices(options, True, *arrays)


def _summed_backward(options, gradients, d_sums):
  d_objective, *_ = d_sums
  d_x, d_kernel = ((d_objective * g).astype(g.dtype) for g in gradients)
  return d_x, d_kernel, None, None, None


_summed.defvjp(_summed_forward, _summed_backward)


def _on_devices(options: _Options, with_gradients: bool, *arrays: Array):
  """Returns the sums, and the gradients of x and kernel or two None."""
  kernel = sharding.param_spec("head/kernel")
  states = P(*sharding.BATCH, None)
  gradients = (states, kernel) if with_gradients else (None, None)
  model = (states, P(None, "tensor"))
  *_, teacher = arrays
  return jax.shard_map(
    functools.partial(_on_one_device, options, with_gradients),
    mesh=options.mesh,
    in_specs=(*model, sharding.BATCH, sharding.BATCH, teacher and model),
    out_specs=(P(), gradients),
    check_vma=False,  # The check wants sums over axes of one device too.
  )(*arrays)


def _summed_over(mesh: Mesh, axes: tuple[str, ...], tree: Any) -> Any:
  """Returns sums over devices; of one alone XLA's CPU backend makes copies."""
  axes = tuple(axis for axis in axes if mesh.shape[axis] > 1)
  return jax.lax.psum(tree, axes) if axes else tree


def _on_one_device(
  options, with_gradients, x_BSM, kernel_MV, targets_BS, weights_BS, teacher
):
  mesh = options.mesh
  teacher_x_BSM, teacher_kernel_MV = teacher or (None, None)
  num_tokens, (M, V) = targets_BS.size, kernel_MV.shape
  num_chunks = math.ceil(num_tokens / options.chunk_tokens)
  missing = -num_tokens % num_chunks
  first_id = V * jax.lax.axis_index("tensor")

  def cut(x_BS: Array) -> Array:
    x = x_BS.reshape(num_tokens, *x_BS.shape[2:])
    x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(num_chunks, -1, *x.shape[1:])

  def top(logits_CV: Array) -> Array:
    top_C1 = logits_CV.max(1, keepdims=True)
    if mesh.shape["tensor"] > 1:
      top_C1 = jax.lax.pmax(top_C1, "tensor")
    return top_C1

  def diverge(teacher_x_CM: Array, logits_CV: Array, lse_C1: Array):
    """Returns KL(teacher || student), and the teacher's probabilities."""
    taught_CV = jnp.matmul(
      teacher_x_CM, teacher_kernel_MV, preferred_element_type=jnp.float32
    )
    taught_CV = softcapping.cap(taught_CV, options.soft_cap)
    top_C1 = top(taught_CV)
    e_CV = jnp.exp(taught_CV - top_C1)
    total_C1, ahead_C1 = _summed_over(
      mesh,
      ("tensor",),
      (
        e_CV.sum(1, keepdims=True),
        (e_CV * (taught_CV - logits_CV)).sum(1, keepdims=True),
      ),
    )
    taught_lse_C1 = top_C1 + jnp.log(total_C1)
    kl_C1 = ahead_C1 / total_C1 - taught_lse_C1 + lse_C1
    return kl_C1, jnp.exp(taught_CV - taught_lse_C1)

  def take(sums, chunk):
    x_CM, target_C, weight_C, teacher_x_CM = chunk
    target_C1, weight_C1 = target_C[:, None] - first_id, weight_C[:, None]
    objective, nats, kl, d_kernel_MV = sums
    logits_CV = jnp.matmul(x_CM, kernel_MV, preferred_element_type=jnp.float32)
    logits_CV = softcapping.cap(logits_CV, options.soft_cap)
    top_C1 = top(logits_CV)
    is_here_C1 = (target_C1 >= 0) & (target_C1 < V)
    here_C1 = jnp.where(is_here_C1, target_C1, 0)
    logit_C1 = jnp.take_along_axis(logits_CV, here_C1, axis=1)
    total_C1, logit_C1 = _summed_over(
      mesh,
      ("tensor",),
      (
        jnp.exp(logits_CV - top_C1).sum(1, keepdims=True),
        jnp.where(is_here_C1, logit_C1, 0),
      ),
    )
    lse_C1 = top_C1 + jnp.log(total_C1)
    nats_C1 = lse_C1 - logit_C1
    objective_C1, wanted_CV = nats_C1, target_C1 == jnp.arange(V)
    if teacher is not None:
      kl_C1, taught_CV = diverge(teacher_x_CM, logits_CV, lse_C1)
      kl += jnp.sum(weight_C1 * kl_C1)
      share = options.teacher_weight
      objective_C1 = share * kl_C1 + (1 - share) * nats_C1
      wanted_CV = share * taught_CV + (1 - share) * wanted_CV
    objective_C1 += options.z_loss * lse_C1**2
    objective += jnp.sum(weight_C1 * objective_C1)
    nats += jnp.sum(weight_C1 * nats_C1)
    if not with_gradients:
      return (objective, nats, kl, None), None
    d_lse_C1 = weight_C1 * (1 + 2 * options.z_loss * lse_C1)
    # Exponentials again: to keep those above is a pass through memory more.
    d_logits_CV = jnp.exp(logits_CV - lse_C1) * d_lse_C1 - weight_C1 * wanted_CV
    if options.soft_cap is not None:
      d_logits_CV *= softcapping.slope(logits_CV, options.soft_cap)
    d_logits_CV = d_logits_CV.astype(x_CM.dtype)
    # Of a transposed operand, XLA's CPU backend takes a slower product.
    x_MC = jax.lax.optimization_barrier(x_CM.T)
    d_kernel_MV += jnp.matmul(
      x_MC, d_logits_CV, preferred_element_type=jnp.float32
    )
    return (objective, nats, kl, d_kernel_MV), d_logits_CV @ kernel_MV.T

  zero = jnp.zeros(())
  (*sums, d_kernel_MV), d_x_NCM = jax.lax.scan(
    take,
    (
      zero,
      zero,
      None if teacher is None else zero,
      jnp.zeros((M, V)) if with_gradients else None,
    ),
    jax.tree.map(cut, (x_BSM, targets_BS, weights_BS, teacher_x_BSM)),
  )
  over_tokens = ("data", "fsdp", "context")
  sums = _summed_over(mesh, over_tokens, tuple(sums))
  if not with_gradients:
    return sums, (None, None)
  d_x_BSM = d_x_NCM.reshape(-1, M)[:num_tokens].reshape(x_BSM.shape)
  if mesh.shape["fsdp"] > 1:
    d_kernel_MV = jax.lax.psum_scatter(d_kernel_MV, "fsdp", tiled=True)
  d_kernel_MV = _summed_over(mesh, ("data", "context"), d_kernel_MV)
  # libtpu 0.0.51 fails where it moves this sum out of a loop of microbatches.
  d_kernel_MV = jax.lax.optimization_barrier(d_kernel_MV)
  return sums, (
    _summed_over(mesh, ("tensor",), d_x_BSM),
    d_kernel_MV.astype(kernel_MV.dtype),
  )
