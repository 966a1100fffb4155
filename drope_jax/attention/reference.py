"""Attention written as its formula: the oracle other backends are held to."""

import jax
import jax.numpy as jnp

from drope_jax import softcapping
from drope_jax.attention import bias
from drope_jax.attention.mask import Mask
from drope_jax.axes import Array


def attend(
  q_BSHD: Array,
  k_BTKD: Array,
  v_BTKD: Array,
  mask: Mask,
  scale: Array | float,
  slopes_H: Array | None = None,
  soft_cap: float | None = None,
  *,
  bias_HT: Array | None = None,
) -> tuple[Array, Array, Array]:
  """See `backends.Backend`; holds all H S T logits at once."""
  B, S, H, D = q_BSHD.shape
  logits_BKGST = logits(
    q_BSHD, k_BTKD, mask, scale, slopes_H, soft_cap, bias_HT=bias_HT
  )
  weights_BKGST, lse_BKGS1, max_BKGS1 = softmax(logits_BKGST)
  out_BSKGD = _product(
    "bkgst,btkd->bskgd", weights_BKGST.astype(v_BTKD.dtype), v_BTKD
  )
  return (
    out_BSKGD.reshape(B, S, H, D).astype(v_BTKD.dtype),
    lse_BKGS1.reshape(B, H, S),
    max_BKGS1.reshape(B, H, S),
  )


def logits(
  q_BSHD: Array,
  k_BTKD: Array,
  mask: Mask,
  scale: Array | float,
  slopes_H: Array | None = None,
  soft_cap: float | None = None,
  *,
  bias_HT: Array | None = None,
) -> Array:
  """Returns what softmax is taken of, float32 logits_BKGST, -inf where hidden.

  Arguments are those of `attend`; query head h is (k, g) = divmod(h, G).
  """
  B, S, H, D = q_BSHD.shape
  T, K = k_BTKD.shape[1:3]
  q_BSKGD = q_BSHD.reshape(B, S, K, H // K, D)
  logits_BKGST = _product("bskgd,btkd->bkgst", q_BSKGD, k_BTKD)
  scale = jnp.asarray(scale)
  logits_BKGST *= scale[:, None, None, :, None] if scale.ndim else scale
  logits_BKGST = softcapping.cap(logits_BKGST, soft_cap)
  everything = jnp.arange(S), jnp.arange(T)
  if slopes_H is not None:
    distance_BST = mask.distance_BST(*everything).astype(jnp.float32)
    slopes_KG11 = slopes_H.reshape(K, H // K, 1, 1)
    logits_BKGST -= slopes_KG11 * distance_BST[:, None, None]
  if bias_HT is not None:
    bias_BHST = bias.by_key(bias_HT, mask.position_BS(everything[0]), T)
    logits_BKGST += bias_BHST.reshape(-1, K, H // K, S, T)
  visible_BST = mask.visible_BST(*everything)
  return jnp.where(visible_BST[:, None, None], logits_BKGST, -jnp.inf)


def softmax(logits_BKGST: Array) -> tuple[Array, Array, Array]:
  """Returns weights_BKGST, their log-sum-exp lse_BKGS1, and max_BKGS1.

  A query that sees nothing has weights of 0.
  """
  max_BKGS1 = jnp.max(logits_BKGST, axis=-1, keepdims=True)
  # Finite, so that a row that sees nothing has weights of 0, not NaN.
  shift_BKGS1 = jnp.maximum(max_BKGS1, jnp.finfo(jnp.float32).min)
  weights_BKGST = jnp.exp(logits_BKGST - jax.lax.stop_gradient(shift_BKGS1))
  sum_BKGS1 = jnp.sum(weights_BKGST, axis=-1, keepdims=True)
  weights_BKGST /= jnp.where(sum_BKGS1 > 0, sum_BKGS1, 1)
  return weights_BKGST, shift_BKGS1 + jnp.log(sum_BKGS1), max_BKGS1


def _product(equation: str, *operands: Array) -> Array:
  return jnp.einsum(
    equation,
    *operands,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
