"""Attention over a mesh is one device's, and as much work for each."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention, sharding
from drope_jax.attention import Divided, Mask, reference

B, S, T, H, K, D = 2, 24, 36, 4, 2, 8
SEGMENTS_BT = np.stack([np.arange(T) // 10, np.arange(T) // 17])
OFFSET_B = jnp.array([12, 5])
MASKS = {
  "causal": Mask(),
  "documents and a window": Mask(
    None, jnp.int32(7), SEGMENTS_BT[:, :S], SEGMENTS_BT
  ),
  "an offset": Mask(OFFSET_B, None, SEGMENTS_BT[:, T - S :], SEGMENTS_BT),
}


def _divided(**axes):
  config = sharding.MeshConfig(**{"fsdp": 1} | axes)
  mesh = sharding.make_mesh(config, jax.devices()[: math.prod(axes.values())])
  return Divided("reference", mesh, **sharding.ATTENTION)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
  "axes",
  [{"context": 4}, {"data": 2, "tensor": 2, "context": 2}],
  ids=["context alone", "data, tensor and context"],
)
def test_it_is_one_device(axes, mask):
  rng = np.random.default_rng(0)
  keys = S if mask == "causal" else T
  q_BSHD, k_BTKD, v_BTKD, cotangent_BSHD = (
    jnp.asarray(rng.normal(size=shape), jnp.float32)
    for shape in ((B, S, H, D), *2 * [(B, keys, K, D)], (B, S, H, D))
  )
  mask = MASKS[mask]

  def results(backend):
    def attend(q_BSHD, k_BTKD, v_BTKD, scale_BS, slopes_H):
      out_BSHD, stats = attention.attend(
        q_BSHD,
        k_BTKD,
        v_BTKD,
        mask=mask,
        logit_scale=scale_BS,
        slopes_H=slopes_H,
        with_stats=True,
        backend=backend,
      )
      return jnp.vdot(out_BSHD, cotangent_BSHD), (out_BSHD, stats)

    return jax.jit(jax.grad(attend, range(4), has_aux=True))(
      q_BSHD,
      k_BTKD,
      v_BTKD,
      jnp.linspace(0.5, 1.5, B * S).reshape(B, S),
      jnp.array([0.5, 0.1, 0.0, 0.01]),
    )

  # Float32, and sums over keys in parts.
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, atol=2e-6),
    results(_divided(**axes)),
    results("reference"),
  )


def test_a_librarys_kernel_without_statistics_is_one_device():
  """As cuDNN's, which a CPU does not run."""
  rng = np.random.default_rng(0)
  q_BSHD, *keys = (
    jnp.asarray(rng.normal(size=shape), jnp.float32)
    for shape in ((B, S, H, D), *2 * [(B, S, K, D)])
  )
  divided = dataclasses.replace(_divided(context=2), backend="xla")
  got, want = (
    jax.jit(functools.partial(attention.attend, mask=Mask(), backend=backend))(
      q_BSHD, *keys
    )
    for backend in (divided, "reference")
  )
  np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("context", [2, 4, 8])
def test_every_device_sees_as_many_keys(context):
  seen = {device: [] for device in range(context)}

  def run(q_BSHD, k_BTKD, v_BTKD, mask, *rest):
    visible_BST = mask.visible_BST(
      jnp.arange(q_BSHD.shape[1]), jnp.arange(k_BTKD.shape[1])
    )
    jax.debug.callback(
      lambda device, count: seen[int(device)].append(int(count)),
      jax.lax.axis_index("context"),
      visible_BST.sum(),
    )
    return reference.attend(q_BSHD, k_BTKD, v_BTKD, mask, *rest)

  x_BSKD = jnp.ones((1, 64, 1, D))
  jax.block_until_ready(
    _divided(context=context).attend(
      run, x_BSKD, x_BSKD, x_BSKD, Mask(), 1.0, None, None
    )
  )
  jax.effects_barrier()
  assert {sum(counts) for counts in seen.values()} == {65 * 64 // 2 // context}


def test_half_a_token_is_refused():
  x_BSKD = jnp.ones((1, 12, 1, D))
  with pytest.raises(ValueError, match="queries that it divides, got 12 for 8"):
    attention.attend(
      x_BSKD,
      x_BSKD,
      x_BSKD,
      mask=Mask(),
      backend=_divided(context=4),
    )
