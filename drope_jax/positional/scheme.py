"""What a positional scheme is: a small frozen object without parameters."""

from typing import Any, Protocol

import numpy as np

from drope_jax.axes import Array


class Scheme(Protocol):
  """How positions enter attention; the model knows no more of a scheme.

  A scheme is a frozen dataclass with scalar fields, so that a configuration
  holding one can be hashed, compared and written to a manifest. Dropping
  positions, or reading on with scaled frequencies, is a change of this object
  and of nothing else.
  """

  def prepare(self, pos_BS: Array, head_dim: int) -> Any:
    """Returns what `apply` needs, once per forward pass, outside the scan."""

  def apply(
    self, q_BSHD: Array, k_BSKD: Array, table: Any
  ) -> tuple[Array, Array]:
    """Returns q and k with positions in them, shapes and dtypes unchanged."""

  def bias_slopes(self, num_heads: int) -> np.ndarray | None:
    """Returns float32 slopes_H, or None where logits take no bias.

    A head's logits lose slope * (query position - key position).
    """
