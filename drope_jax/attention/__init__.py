"""Causal attention behind one function; a named backend runs or raises."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from drope_jax.attention import backends
from drope_jax.attention.backends import (
  BACKENDS,
  Choice,
  FlashTpu,
  Need,
  is_kernel,
  on_mesh,
  require_platform,
  resolve,
  rotates,
)
from drope_jax.attention.divided import Divided
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.attention.mask import Mask
from drope_jax.attention.reference import logits
from drope_jax.attention.rotation import Rotation, rotate
from drope_jax.attention.weights import Reader
from drope_jax.attention.weights import read as read_weights
from drope_jax.axes import Array


class Stats(NamedTuple):
  """Of each query's logits, in float32; no gradient passes through.

  Attributes:
    lse_BHS: natural logarithm of the sum of exp(logits) over what it sees.
    max_logit_BHS: the largest that it sees. Both are -inf where that is none.
  """

  lse_BHS: Array
  max_logit_BHS: Array


def attend(
  q_BSHD: Array,
  k_BTKD: Array,
  v_BTKD: Array,
  *,
  mask: Mask,
  logit_scale: Array | float = 1.0,
  slopes_H: Array | None = None,
  bias_HT: Array | None = None,
  soft_cap: float | None = None,
  with_stats: bool = False,
  rotation: Rotation | None = None,
  backend: Choice = "reference",
) -> Array | tuple[Array, Stats]:
  """Returns softmax(cap(logit_scale q k^T / sqrt(D)) + bias) v.

  The bias of a query and a key is bias[distance] - slopes * distance.
  Softmax is float32; the result, out_BSHD, has v's dtype. Query head h reads
  key/value head h // (H / K). A query that sees nothing gets zeros.

  Args:
    q_BSHD: queries; S is at most T.
    k_BTKD: keys, as many heads as `v_BTKD`; K divides H.
    v_BTKD: values.
    mask: what each query sees.
    logit_scale: beyond 1 / sqrt(D); one for all, or float32 [B, S] for the
      queries.
    slopes_H: float32, of a linear bias; or None. No gradient passes through.
    bias_HT: float32, by query position minus key position; or None. Gradients
      pass through.
    soft_cap: bounds logits before the bias, as cap * tanh(logits / cap).
      Static.
    with_stats: whether `Stats` are returned too.
    rotation: of q and k before all else, without a pass through memory. No
      gradient passes through. None: they are rotated already.
    backend: a name in `BACKENDS`, `FlashTpu`, or either `Divided`; as
      `resolve` returns it.

  Raises:
    ValueError: there is no such backend, or it does not honor an argument;
      shapes do not fit; the mask has the segments of one side alone.
  """
  _check_shapes(q_BSHD, k_BTKD, v_BTKD, mask, bias_HT)
  needs = {
    Need.OFFSET: mask.offset_B is not None,
    Need.WINDOW: mask.window is not None,
    Need.TRACED_WINDOW: mask.window_is_traced,
    Need.SEGMENTS: mask.q_segment_BS is not None,
    Need.SLOPES: slopes_H is not None,
    Need.BIAS: bias_HT is not None,
    Need.SOFT_CAP: soft_cap is not None,
    Need.STATS: with_stats,
    Need.ROTATION: rotation is not None,
    Need.FLOAT32: q_BSHD.dtype == jnp.float32,
  }
  run = backends.select(
    backend, {need for need, needed in needs.items() if needed}
  )
  if rotation is not None:
    run = functools.partial(run, rotation=jax.lax.stop_gradient(rotation))
  if bias_HT is not None:
    run = functools.partial(run, bias_HT=bias_HT)
  slopes_H = jax.lax.stop_gradient(slopes_H)
  S, D = q_BSHD.shape[1], q_BSHD.shape[3]
  if mask.offset_B is None:  # Nothing sees what lies behind the last query.
    k_BTKD, v_BTKD = k_BTKD[:, :S], v_BTKD[:, :S]
    if mask.k_segment_BT is not None:
      mask = mask._replace(k_segment_BT=mask.k_segment_BT[:, :S])
  out_BSHD, *stats = run(
    q_BSHD, k_BTKD, v_BTKD, mask, logit_scale * D**-0.5, slopes_H, soft_cap
  )
  if not with_stats:
    return out_BSHD
  return out_BSHD, Stats(*jax.lax.stop_gradient(stats))


def _check_shapes(q_BSHD, k_BTKD, v_BTKD, mask, bias_HT):
  (B, S, H, D), (T, K) = q_BSHD.shape, k_BTKD.shape[1:3]
  if k_BTKD.shape != (B, T, K, D) or v_BTKD.shape != k_BTKD.shape or H % K:
    raise ValueError(
      "Attention needs keys and values [B, T, K, D] for queries [B, S, H, D], "
      f"K dividing H, got {k_BTKD.shape} and {v_BTKD.shape} for "
      f"{q_BSHD.shape}. Project them alike."
    )
  if S > T:
    raise ValueError(
      f"Attention needs a key for each query, got {T} keys for {S} queries. "
      "Pass the queries' own keys too."
    )
  if bias_HT is not None and (len(bias_HT) != H or bias_HT.shape[1] < T):
    raise ValueError(
      f"A bias needs a row for each of {H} query heads and an entry for each "
      f"distance below {T}, got shape {bias_HT.shape}. Make it for all keys."
    )
  if (mask.q_segment_BS is None) != (mask.k_segment_BT is None):
    raise ValueError(
      "A Mask needs the segments of queries and of keys, got those of one "
      "side. Give both, or neither."
    )


__all__ = [
  "BACKENDS",
  "Blocks",
  "Choice",
  "Divided",
  "FlashTpu",
  "Mask",
  "Need",
  "Reader",
  "Rotation",
  "Stats",
  "attend",
  "is_kernel",
  "logits",
  "on_mesh",
  "read_weights",
  "require_platform",
  "resolve",
  "rotate",
  "rotates",
]
