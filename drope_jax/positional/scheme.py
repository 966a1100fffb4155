"""What a positional scheme is: a small frozen object without parameters."""

from typing import Protocol

import numpy as np

from drope_jax.axes import Array


class Scheme(Protocol):
  """How positions enter attention; the model knows no more of a scheme.

  A scheme is a frozen dataclass with scalar fields, so that a configuration
  holding one can be hashed, compared and written to a manifest. Dropping
  positions, or reading on with scaled frequencies, is a change of this object
  and of nothing else.
  """

  def prepare(self, pos_BS: Array, head_dim: int) -> Array | None:
    """Returns what turns q and k, or None where they stay as they are.

    Called once a forward pass, outside the scan over layers. Each channel x
    becomes x * turn[0] + x' * turn[1], x' being the channel half a head away;
    float32 turn_B2SD.
    """

  def bias_slopes(self, num_heads: int) -> np.ndarray | None:
    """Returns float32 slopes_H, or None where logits take no bias.

    A head's logits lose slope * (query position - key position).
    """
