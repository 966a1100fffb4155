"""Causal attention behind one function; a named backend runs or raises."""

import types

from drope_jax.attention import blockwise, reference
from drope_jax.attention.mask import Mask
from drope_jax.axes import Array

BACKENDS = types.MappingProxyType(
  {"reference": reference.attend, "blockwise": blockwise.attend}
)


def attend(
  q_BSHD: Array,
  k_BTKD: Array,
  v_BTKD: Array,
  mask: Mask,
  scale: Array | float,
  slopes_H: Array | None = None,
  backend: str = "reference",
) -> Array:
  """Returns softmax(scale q k^T - slopes * distance) v, as out_BSHD.

  Logits and softmax are float32; the result has v's dtype. Query head h reads
  key/value head h // (H / K).

  Args:
    q_BSHD: queries, positions already in them.
    k_BTKD: keys, as many heads as `v_BTKD`; K divides H.
    v_BTKD: values.
    mask: what each query sees; a row that sees nothing has no defined output.
    scale: multiplies the logits, 1 / sqrt(D) times any logit scale.
    slopes_H: ALiBi's, or None.
    backend: a name in `BACKENDS`.

  Raises:
    ValueError: there is no such backend.
  """
  if backend not in BACKENDS:
    raise ValueError(
      f"The attention backend must be one of {', '.join(BACKENDS)}, got "
      f"{backend!r}. Name one of these."
    )
  return BACKENDS[backend](q_BSHD, k_BTKD, v_BTKD, mask, scale, slopes_H)


__all__ = ["BACKENDS", "Mask", "attend"]
