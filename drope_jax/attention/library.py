"""Attention by `jax.nn.dot_product_attention`: XLA's own products, or cuDNN."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from drope_jax.attention import bias
from drope_jax.attention import scale as scales
from drope_jax.attention.mask import Mask
from drope_jax.axes import Array


def attend(
  q_BSHD: Array,
  k_BTKD: Array,
  v_BTKD: Array,
  mask: Mask,
  scale: Array | float,
  slopes_H: Array | None = None,
  soft_cap: None = None,
  *,
  bias_HT: Array | None = None,
  implementation: Literal["xla", "cudnn"],
) -> tuple[Array, None, None]:
  """See `backends.Backend`.

  "xla" holds H S T logits. "cudnn" does not. But it takes an offset, segments
  or a traced window as a mask of S T elements, in the inputs' dtype, and then
  computes every tile.
  """
  queries, keys = jnp.arange(q_BSHD.shape[1]), jnp.arange(k_BTKD.shape[1])
  biases = []
  if slopes_H is not None:
    distance_BST = mask.distance_BST(queries, keys).astype(jnp.float32)
    biases.append(-slopes_H[:, None, None] * distance_BST[:, None])
  if bias_HT is not None:
    position_BS = mask.position_BS(queries)
    biases.append(bias.by_key(bias_HT, position_BS, len(keys)))
  library = functools.partial(
    jax.nn.dot_product_attention,
    scales.fold(q_BSHD, scale),
    k_BTKD,
    v_BTKD,
    sum(biases) if biases else None,
    scale=1.0,
    implementation=implementation,
  )
  placed = mask.offset_B is not None or mask.q_segment_BS is not None
  if not placed and not mask.window_is_traced:
    window = None if mask.window is None else (int(mask.window) - 1, 0)
    return library(is_causal=True, local_window_size=window), None, None
  visible_BST = mask.visible_BST(queries, keys)
  # Over a row that sees nothing, the library's softmax is uniform.
  sees_BS11 = visible_BST.any(-1)[..., None, None]
  out_BSHD = library(mask=visible_BST[:, None])
  return jnp.where(sees_BS11, out_BSHD, 0), None, None
