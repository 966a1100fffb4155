"""Causal attention on the TPU, in Pallas: forward and backward.

The softmax is in base 2, since the hardware has exp2: log2(e) is part of the
logits' scale. `tiles` says which tiles are computed, `pipeline` how their work
overlaps.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from drope_jax.attention import scale as scales
from drope_jax.attention.flash_tpu import backward, forward, logits
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.attention.flash_tpu.grid import Inputs
from drope_jax.attention.mask import Mask
from drope_jax.attention.rotation import Rotation
from drope_jax.axes import Array

_LOG2_E = 1 / math.log(2)
_PADDING = -(2**31)
"""The segment of padding."""


@dataclasses.dataclass(frozen=True)
class _Options:
  forward_blocks: Blocks
  backward_blocks: Blocks
  soft_cap: float | None
  interpret: Any


def attend(
  q_BSHD: Array,
  k_BTKD: Array,
  v_BTKD: Array,
  mask: Mask,
  scale: Array | float,
  slopes_H: Array | None = None,
  soft_cap: float | None = None,
  rotation: Rotation | None = None,
  *,
  forward_blocks: Blocks | None = None,
  backward_blocks: Blocks | None = None,
  interpret: Any = False,
) -> tuple[Array, Array, Array]:
  """See `backends.Backend`.

  Args:
    forward_blocks, backward_blocks: how each kernel divides its work.
    interpret: that of `pl.pallas_call`; a CPU needs it.

  Raises:
    ValueError: blocks are missing.
  """
  if forward_blocks is None or backward_blocks is None:
    raise ValueError(
      "The backend flash_tpu needs blocks for its chip, got none. Take what "
      "attention.resolve returns for a device."
    )
  q_BSHD = scales.fold(q_BSHD, scale * _LOG2_E)
  if slopes_H is not None:
    slopes_H = jax.lax.stop_gradient(slopes_H.astype(jnp.float32) * _LOG2_E)
  if soft_cap is not None:
    soft_cap *= _LOG2_E
  if mask.window is not None:
    # Distances are below T; a larger window would overflow in comparisons.
    window = jnp.minimum(mask.window, k_BTKD.shape[1])
    mask = mask._replace(window=jnp.reshape(window, (1,)))
  if rotation is not None:
    rotation = rotation._replace(index=jnp.reshape(rotation.index, (1,)))
  inputs = Inputs(
    q_BSHD.swapaxes(1, 2),
    k_BTKD.swapaxes(1, 2),
    v_BTKD.swapaxes(1, 2),
    mask,
    slopes_H,
    rotation,
  )
  options = _Options(forward_blocks, backward_blocks, soft_cap, interpret)
  out_BHSD, lse_BHS, largest_BHS = _attend(options, inputs)
  lse_BHS, largest_BHS = jax.lax.stop_gradient((lse_BHS, largest_BHS))
  sees_BHS = lse_BHS != logits.EMPTY
  return (
    out_BHSD.swapaxes(1, 2),
    jnp.where(sees_BHS, lse_BHS / _LOG2_E, -jnp.inf),
    jnp.where(sees_BHS, largest_BHS / _LOG2_E, -jnp.inf),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(options: _Options, inputs: Inputs) -> tuple[Array, Array, Array]:
  """Returns out_BHSD, and base-2 log-sum-exp and largest logit as BHS."""
  S, T = inputs.q_BHSD.shape[2], inputs.k_BKTD.shape[2]
  division = forward.division(inputs, options.forward_blocks.fitted(S, T))
  out_BHSD, *rows = forward.attend(
    _padded(inputs, *division.tile),
    division,
    options.soft_cap,
    options.interpret,
  )
  return out_BHSD[:, :, :S], *(row_BH1S[:, :, 0, :S] for row_BH1S in rows)


def _attend_forward(options, inputs):
  out_BHSD, lse_BHS, largest_BHS = _attend(options, inputs)
  # If these are saved, rematerialization does not run the kernel again.
  out_BHSD, lse_BHS = checkpoint_name((out_BHSD, lse_BHS), "context")
  return (out_BHSD, lse_BHS, largest_BHS), (inputs, out_BHSD, lse_BHS)


def _attend_backward(options, saved, d_results):
  inputs, out_BHSD, lse_BHS = saved
  d_out_BHSD, *_ = d_results
  S, T = inputs.q_BHSD.shape[2], inputs.k_BKTD.shape[2]
  division, chunk = backward.division(
    inputs, options.backward_blocks.fitted(S, T)
  )
  delta_BHS = jnp.einsum(
    "bhsd,bhsd->bhs",
    out_BHSD,
    d_out_BHSD,
    preferred_element_type=jnp.float32,
  )
  d_q_BHSD, d_k_BKTD, d_v_BKTD = backward.gradients(
    _padded(inputs, chunk, division.k),
    _pad(d_out_BHSD, 2, chunk),
    _pad(lse_BHS[:, :, None], 3, chunk, logits.EMPTY),
    _pad(delta_BHS[:, :, None], 3, chunk),
    division,
    chunk,
    options.soft_cap,
    options.interpret,
  )
  none = jax.tree.map(lambda _: None, inputs[3:])
  return (
    Inputs(d_q_BHSD[:, :, :S], d_k_BKTD[:, :, :T], d_v_BKTD[:, :, :T], *none),
  )


_attend.defvjp(_attend_forward, _attend_backward)


def _padded(inputs: Inputs, queries: int, keys: int) -> Inputs:
  """Returns inputs padded to multiples; no query sees a key of the padding."""
  mask = inputs.mask
  if mask.q_segment_BS is not None:
    mask = mask._replace(
      q_segment_BS=_pad(mask.q_segment_BS, 1, queries, _PADDING),
      k_segment_BT=_pad(mask.k_segment_BT, 1, keys, _PADDING),
    )
  rotation = inputs.rotation
  if rotation is not None:
    rotation = rotation._replace(
      q_N2SD=_pad(rotation.q_N2SD, 2, queries),
      k_N2TD=_pad(rotation.k_N2TD, 2, keys),
    )
  return inputs._replace(
    q_BHSD=_pad(inputs.q_BHSD, 2, queries),
    k_BKTD=_pad(inputs.k_BKTD, 2, keys),
    v_BKTD=_pad(inputs.v_BKTD, 2, keys),
    mask=mask,
    rotation=rotation,
  )


def _pad(x: Array, axis: int, multiple: int, value: float = 0) -> Array:
  """Returns x padded with `value` at the end of an axis, up to a multiple."""
  missing = -x.shape[axis] % multiple
  if not missing:
    return x
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, missing)
  return jnp.pad(x, widths, constant_values=value)
