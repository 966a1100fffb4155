"""Attention written as its formula: the oracle other backends are held to."""

import jax
import jax.numpy as jnp

from drope_jax.attention.mask import Mask
from drope_jax.axes import Array

# Finite, so that a row that sees nothing is uniform rather than NaN.
HIDDEN = -1e30


def attend(
  q_BSHD: Array,
  k_BTKD: Array,
  v_BTKD: Array,
  mask: Mask,
  scale: Array | float,
  slopes_H: Array | None = None,
) -> Array:
  """See `drope_jax.attention.attend`; holds all H S T logits at once."""
  B, S, H, D = q_BSHD.shape
  T, K = k_BTKD.shape[1:3]
  q_BSKGD = q_BSHD.reshape(B, S, K, H // K, D)
  logits_BKGST = scale * jnp.einsum(
    "bskgd,btkd->bkgst", q_BSKGD, k_BTKD, preferred_element_type=jnp.float32
  )
  everything = (slice(0, S), slice(0, T))
  if slopes_H is not None:
    distance_BST = mask.distance_BST(*everything).astype(jnp.float32)
    slopes_KG11 = slopes_H.reshape(K, H // K, 1, 1)
    logits_BKGST -= slopes_KG11 * distance_BST[:, None, None]
  visible_BST = mask.visible_BST(*everything)
  logits_BKGST = jnp.where(visible_BST[:, None, None], logits_BKGST, HIDDEN)
  weights_BKGST = jax.nn.softmax(logits_BKGST, axis=-1).astype(v_BTKD.dtype)
  out_BSKGD = jnp.einsum("bkgst,btkd->bskgd", weights_BKGST, v_BTKD)
  return out_BSKGD.reshape(q_BSHD.shape)
