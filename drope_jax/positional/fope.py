"""Fourier Position Embedding (FoPE)."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from drope_jax.axes import Array
from drope_jax.positional import partial, rotary
from drope_jax.positional.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class Fope(Scheme):
  """RoPE whose pairs each mix the frequencies that training can cover.

  Linear layers and nonlinearities leave several frequencies in each channel.
  So a pair's cosine is its own plus a weighted sum of the others', and its
  sine likewise, with fixed random weights. Pairs that complete no rotation in
  the trained context are not rotated, and are in no sum.

  The weights are those of `seed`, and are the same for all heads. The authors
  draw others for each head. Here a rotation table has no axis of heads: it
  would be H times as large, and no kernel reads one. A `Pattern` of seeds gives
  each layer its own weights.

  Attributes:
    theta: RoPE's.
    trained_tokens: the context the weights were trained at.
    gain: of the random weights: F of them have a deviation of gain / sqrt(F),
      as Xavier's initialization of an F x F matrix has.
    seed: of the random weights.

  Source: Hua et al. 2024 (arXiv:2412.17739), section 4; the authors' code,
    `eye_xavier_norm` with separate sine and cosine weights. Their code has
    sines of 1 beside the cosines of 1 where a pair is not rotated. That doubles
    the pair's part of a logit; the paper's equation, which is kept to here,
    does not.
  """

  theta: float = 10_000.0
  trained_tokens: int = 4096
  gain: float = 0.3
  seed: int = 0

  def __post_init__(self):
    rotary.require_theta(self)
    rotary.require_trained_tokens(self)
    if not 0 <= self.gain < math.inf:
      raise ValueError(
        f"Fope needs a finite gain of at least 0, got {self.gain}. The paper's "
        "is 0.3 to 0.6; 0 leaves RoPE without its slow pairs."
      )
    if not 0 <= self.seed < 2**32:
      raise ValueError(
        f"Fope needs a seed from 0 to 2**32 - 1, got {self.seed}. Choose one."
      )

  def check(self, head_dim: int) -> None:
    self.frequencies(head_dim)

  def frequencies(self, head_dim: int) -> np.ndarray:
    """Returns float32 omega_F of the pairs that rotate, fastest first.

    Raises:
      ValueError: there is none, or `head_dim` is odd.
    """
    rope = rotary.Rope(self.theta)
    pairs = partial.complete_pairs(rope, head_dim, self.trained_tokens)
    if not pairs:
      raise ValueError(
        "Fope needs a pair that completes a rotation in the trained context, "
        f"got none in {self.trained_tokens} tokens. Raise trained_tokens, or "
        "use Nope()."
      )
    return rope.frequencies(head_dim)[:pairs]

  def rotation(self, pos_BS: Array, head_dim: int) -> Array:
    omega_F = self.frequencies(head_dim)
    F, still = len(omega_F), head_dim // 2 - len(omega_F)
    # This generator's numbers are the same in every version of numpy.
    random = np.random.RandomState(self.seed)
    std = self.gain / math.sqrt(F)
    cos_FF, sin_FF = np.eye(F) + std * random.standard_normal((2, F, F))
    angle_BSF = pos_BS.astype(jnp.float32)[:, :, None] * omega_F

    def mixed(wave_BSF: Array, weights_FF: np.ndarray, rest: float) -> Array:
      y_BSF = jnp.matmul(
        wave_BSF, weights_FF.astype(np.float32), precision="highest"
      )
      return jnp.pad(y_BSF, ((0, 0), (0, 0), (0, still)), constant_values=rest)

    return rotary.table(
      mixed(jnp.cos(angle_BSF), cos_FF, 1.0),
      mixed(jnp.sin(angle_BSF), sin_FF, 0.0),
    )
