"""Attention's weights, shown to a reader a block of queries at a time.

A long sequence has too many weights to hold: 16,384 tokens have a GiB for each
head. A reader keeps of each block what it is after.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from drope_jax.attention import reference
from drope_jax.attention.mask import Mask
from drope_jax.axes import Array

AT_ONCE = 2**22
"""Weights that a block has at most, unless one query has more."""


class Reader(Protocol):
  """Folds the attention weights of a layer; its arrays may be traced."""

  def start(self, num_rows: int, num_heads: int, num_queries: int) -> Any:
    """Returns what `read` takes first, for B, H and S."""
    ...

  def read(self, found: Any, weights_BHcT: Array, query_c: Array) -> Any:
    """Returns `found` with a block of queries added.

    Args:
      found: as `start` or the last call returned it; a pytree of arrays.
      weights_BHcT: float32, 0 where a query does not see a key.
      query_c: int32 indices of the block's queries, of 0 to S - 1.
    """
    ...


def read(
  reader: Reader,
  q_BSHD: Array,
  k_BTKD: Array,
  mask: Mask,
  *,
  logit_scale: Array | float,
  slopes_H: Array | None = None,
  bias_HT: Array | None = None,
  soft_cap: float | None = None,
) -> Any:
  """Returns what `reader` found in the weights that `attend` would use.

  They are those of the backend "reference". Gradients pass through; the
  backward pass computes each block again.

  Args:
    reader: sees every query once, in order.
    q_BSHD, k_BTKD, mask, logit_scale, slopes_H, bias_HT, soft_cap: as of
      `attention.attend`, q and k rotated.
  """
  B, S, H, D = q_BSHD.shape
  if mask.offset_B is None:
    k_BTKD = k_BTKD[:, :S]
  T = k_BTKD.shape[1]
  scale = jnp.asarray(logit_scale * D**-0.5)

  def read_block(found: Any, first: Array | int, count: int) -> Any:
    def own(x_BS: Array) -> Array:
      return jax.lax.dynamic_slice_in_dim(x_BS, first, count, axis=1)

    before_B = jnp.zeros(1, jnp.int32)
    if mask.offset_B is not None:
      before_B = mask.offset_B
    segment_BS = mask.q_segment_BS
    own_mask = mask._replace(
      offset_B=before_B + first,
      q_segment_BS=None if segment_BS is None else own(jnp.asarray(segment_BS)),
    )
    logits_BKGcT = reference.logits(
      own(q_BSHD),
      k_BTKD,
      own_mask,
      own(scale) if scale.ndim else scale,
      slopes_H,
      soft_cap,
      bias_HT=bias_HT,
    )
    weights_BKGcT, *_ = reference.softmax(logits_BKGcT)
    weights_BHcT = weights_BKGcT.reshape(B, H, count, T)
    return reader.read(found, weights_BHcT, first + jnp.arange(count))

  block = min(S, max(AT_ONCE // (B * H * T), 1))
  whole = S // block

  @jax.checkpoint
  def whole_block(found: Any, index: Array) -> Any:
    return read_block(found, index * block, block)

  found, _ = jax.lax.scan(
    lambda found, index: (whole_block(found, index), None),
    reader.start(B, H, S),
    jnp.arange(whole),
  )
  if S % block:
    found = read_block(found, whole * block, S % block)
  return found
