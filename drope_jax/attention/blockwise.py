"""Attention by blocks of queries: memory O(S x block), in plain XLA.

For devices without a kernel, and for long evaluations on a CPU. A row is cut
into strips; a strip's keys end where the strip does, so that what lies above
the diagonal is not computed, and within a strip blocks of queries take turns.
"""

import jax
import jax.numpy as jnp

from drope_jax.attention import scale as scales
from drope_jax.attention.mask import Mask
from drope_jax.axes import Array

# Strips are unrolled. With n of them, (n + 1) / 2n of the square is computed:
# 0.56 of it with 8. Narrower than 128 queries, matrix products run slower than
# the skipped work costs.
MAX_STRIPS = 8
MIN_STRIP = 128


def attend(
  q_BSHD: Array,
  k_BTKD: Array,
  v_BTKD: Array,
  mask: Mask,
  scale: Array | float,
  slopes_H: Array | None = None,
  soft_cap: float | None = None,
  *,
  block: int = 512,
) -> tuple[Array, Array, Array]:
  """See `backends.Backend`; holds H * block * T logits at once.

  `block` queries take a turn, or fewer, so that a wide strip has two turns.
  """
  B, S, H, D = q_BSHD.shape
  T, K = k_BTKD.shape[1:3]
  # Heads lead, so that each product is one plain batch of matrices.
  q_BSKGD = scales.fold(q_BSHD, scale).reshape(B, S, K, H // K, D)
  q_BKGSD = q_BSKGD.transpose(0, 2, 3, 1, 4)
  # T is last, for then the gradients of k and v are such products too.
  k_BKDT, v_BKDT = (x.transpose(0, 2, 3, 1) for x in (k_BTKD, v_BTKD))
  strip = max(MIN_STRIP, -(-S // MAX_STRIPS))
  # Turns of a loop share memory; strips in one turn may be held side by side.
  block = min(block, max(MIN_STRIP, strip // 2))
  strips = []
  for start in range(0, S, strip):
    stop = min(start + strip, S)
    keys = stop if mask.offset_B is None else T
    one_block = _block_attention(
      q_BKGSD,
      k_BKDT[..., :keys],
      v_BKDT[..., :keys],
      mask,
      slopes_H,
      soft_cap,
    )
    strips.extend(_in_turns(one_block, start, stop, block))
  out_BKGSD, lse_BKGS, max_BKGS = _joined(strips)
  return (
    out_BKGSD.transpose(0, 3, 1, 2, 4).reshape(B, S, H, D),
    lse_BKGS.reshape(B, H, S),
    max_BKGS.reshape(B, H, S),
  )


def _block_attention(q_BKGSD, k_BKDT, v_BKDT, mask, slopes_H, soft_cap):
  """Returns a function from (first query, count) to their results."""
  K, G = q_BKGSD.shape[1:3]
  keys = jnp.arange(k_BKDT.shape[3])

  def attend_block(first: Array | int, count: int) -> tuple[Array, ...]:
    q_BKGcD = jax.lax.dynamic_slice_in_dim(q_BKGSD, first, count, axis=3)
    rows = first + jnp.arange(count)
    # One axis of rows, since products contract one axis best.
    q_BKRD = q_BKGcD.reshape(*q_BKGcD.shape[:2], G * count, -1)
    logits_BKRT = jnp.einsum(
      "bkrd,bkdt->bkrt", q_BKRD, k_BKDT, preferred_element_type=jnp.float32
    )
    logits_BKGcT = logits_BKRT.reshape(*q_BKGcD.shape[:4], -1)
    if soft_cap is not None:
      logits_BKGcT = soft_cap * jnp.tanh(logits_BKGcT / soft_cap)
    if slopes_H is not None:
      distance_BcT = mask.distance_BST(rows, keys).astype(jnp.float32)
      slopes_KG11 = slopes_H.reshape(K, G, 1, 1)
      logits_BKGcT -= slopes_KG11 * distance_BcT[:, None, None]
    visible_BcT = mask.visible_BST(rows, keys)
    logits_BKGcT = jnp.where(visible_BcT[:, None, None], logits_BKGcT, -jnp.inf)
    max_BKGc1 = jnp.max(logits_BKGcT, axis=-1, keepdims=True)
    # Finite, so that a row that sees nothing has weights of 0, not NaN.
    shift_BKGc1 = jnp.maximum(max_BKGc1, jnp.finfo(jnp.float32).min)
    weights_BKGcT = jnp.exp(logits_BKGcT - jax.lax.stop_gradient(shift_BKGc1))
    # Dividing the D outputs, not the T weights, saves a pass over the block.
    sum_BKGc1 = jnp.sum(weights_BKGcT, axis=-1, keepdims=True)
    out_BKRD = jnp.einsum(
      "bkrt,bkdt->bkrd",
      weights_BKGcT.astype(v_BKDT.dtype).reshape(logits_BKRT.shape),
      v_BKDT,
      preferred_element_type=jnp.float32,
    )
    out_BKGcD = out_BKRD.reshape(q_BKGcD.shape)
    out_BKGcD /= jnp.where(sum_BKGc1 > 0, sum_BKGc1, 1)
    lse_BKGc1 = shift_BKGc1 + jnp.log(sum_BKGc1)
    stats = (x[..., 0] for x in (lse_BKGc1, max_BKGc1))
    return out_BKGcD.astype(v_BKDT.dtype), *jax.lax.stop_gradient((*stats,))

  return attend_block


def _in_turns(
  attend_block, start: int, stop: int, block: int
) -> list[tuple[Array, ...]]:
  """Returns the results of queries start to stop, computed block by block."""
  whole = (stop - start) // block
  parts = []
  if whole > 1:
    firsts = start + block * jnp.arange(whole)
    # Remat: the backward pass recomputes a block rather than keep all logits.
    turn = jax.checkpoint(lambda first: attend_block(first, block))
    turns = jax.lax.map(turn, firsts)
    parts.append(tuple(_rows_of_turns(x_nBKGc) for x_nBKGc in turns))
    start += whole * block
  if start < stop:
    parts.append(attend_block(start, stop - start))
  return parts


def _rows_of_turns(x_nBKGc: Array) -> Array:
  x_BKGnc = jnp.moveaxis(x_nBKGc, 0, 3)
  return x_BKGnc.reshape(*x_BKGnc.shape[:3], -1, *x_BKGnc.shape[5:])


def _joined(parts: list[tuple[Array, ...]]) -> tuple[Array, ...]:
  return tuple(jnp.concatenate(x, axis=3) for x in zip(*parts, strict=True))
