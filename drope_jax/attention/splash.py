"""Attention by splash, the TPU kernel that comes with JAX."""

from typing import Any

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as splash
import jax.numpy as jnp

from drope_jax.attention import scale as scales
from drope_jax.attention.mask import Mask
from drope_jax.axes import Array

_LANES = 128


def attend(
  q_BSHD: Array,
  k_BTKD: Array,
  v_BTKD: Array,
  mask: Mask,
  scale: Array | float,
  slopes_H: None = None,
  soft_cap: float | None = None,
  *,
  block: int = 512,
  interpret: Any = False,
) -> tuple[Array, None, None]:
  """See `backends.Backend`; needs as many keys as queries."""
  S, H = q_BSHD.shape[1:3]
  block = min(block, -(-S // _LANES) * _LANES)
  padded = -(-S // block) * block

  def pad(x: Array) -> Array:
    # The padding comes last, so that no real query sees it.
    widths = [(0, 0), (0, padded - S)] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, widths)

  if mask.window is None:
    kernel_mask = splash.CausalMask((padded, padded))
  else:
    window = (int(mask.window) - 1, 0)
    kernel_mask = splash.LocalMask((padded, padded), window, offset=0)
  kernel = splash.make_splash_mha_single_device(
    splash.MultiHeadMask([kernel_mask] * H),
    block_sizes=splash.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    attn_logits_soft_cap=soft_cap,
    residual_checkpoint_name="context",
    interpret=interpret,
  )
  segments = None
  if mask.q_segment_BS is not None:
    segments = splash.SegmentIds(pad(mask.q_segment_BS), pad(mask.k_segment_BT))
  q_BSHD = scales.fold(q_BSHD, scale)
  out_BHSD = jax.vmap(kernel)(
    *(pad(x).swapaxes(1, 2) for x in (q_BSHD, k_BTKD, v_BTKD)), segments
  )
  out_BSHD = out_BHSD.swapaxes(1, 2)[:, :S]
  if mask.q_segment_BS is not None:
    # Over a row that sees nothing, the kernel's softmax is uniform.
    visible_BST = mask.visible_BST(jnp.arange(S), jnp.arange(S))
    out_BSHD = jnp.where(visible_BST.any(-1)[..., None, None], out_BSHD, 0)
  return out_BSHD, None, None
