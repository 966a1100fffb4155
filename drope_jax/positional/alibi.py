"""Attention with linear biases (ALiBi)."""

import dataclasses
import math

import numpy as np

from drope_jax.positional.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class Alibi(Scheme):
  """Subtracts slope * distance from each head's logits.

  The bias is added to the scaled logits, and is not multiplied by the model's
  logit scale.

  Source: Press et al. 2022 (arXiv:2108.12409), section 3.
  """

  def bias_slopes(self, num_heads: int) -> np.ndarray:
    """Returns slopes_H: 2^(-8/H), 2^(-16/H), ... where H is a power of two.

    Otherwise the slopes of the power of two below, followed by every other
    slope of the one above, as in the authors' implementation.
    """

    def geometric(n: int) -> list[float]:
      return [2.0 ** (-8.0 * i / n) for i in range(1, n + 1)]

    below = 2 ** math.floor(math.log2(num_heads))
    slopes = geometric(below) + geometric(2 * below)[::2]
    return np.asarray(slopes[:num_heads], np.float32)
