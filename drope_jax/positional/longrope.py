"""RoPE with a factor for each channel pair; LongRoPE, with two such lists."""

import dataclasses
import math

import numpy as np

from drope_jax.positional import rotary


@dataclasses.dataclass(frozen=True)
class RescaledRope(rotary.GeometricRotary):
  """RoPE whose frequencies are each divided by a factor of their own.

  A factor of 1 leaves a pair as it is. A factor of 1e30 drops the pair's
  positions: its angle is 0 at every length.

  Attributes:
    factors: one a channel pair, fastest first; D / 2 of them.
    attention_factor: what q and k are each multiplied by.

  Source: transformers' "longrope" where its two lists are the same.
  """

  factors: tuple[float, ...] = ()
  attention_factor: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    _require_factors(self, "factors")
    _require_attention_factor(self)

  def frequencies(self, head_dim: int) -> np.ndarray:
    omega_F = rotary.geometric_frequencies(self.theta, head_dim)
    if len(self.factors) != len(omega_F):
      raise ValueError(
        "RescaledRope needs a factor for each channel pair, "
        f"{len(omega_F)} at head_dim {head_dim}, got {len(self.factors)}. Give "
        "as many."
      )
    return omega_F / np.asarray(self.factors, np.float32)


@dataclasses.dataclass(frozen=True)
class LongRope(rotary.LengthDependent):
  """LongRoPE and LongRoPE2: factors for short sequences, others for long ones.

  LongRoPE2 differs in how its factors are found, not in what they do.

  Attributes:
    theta: RoPE's.
    short_factor: `RescaledRope.factors` of sequences of up to `trained_tokens`.
    long_factor: likewise, of longer ones.
    trained_tokens: the context before the extension, tokens.
    attention_factor: what q and k are each multiplied by, at every length.

  Source: Ding et al. 2024 (arXiv:2402.13753); Shang et al. 2025
    (arXiv:2502.20082); transformers' "longrope".
  """

  theta: float = 10_000.0
  short_factor: tuple[float, ...] = ()
  long_factor: tuple[float, ...] = ()
  trained_tokens: int = 4096
  attention_factor: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    rotary.require_theta(self)
    _require_factors(self, "short_factor")
    _require_factors(self, "long_factor")
    _require_attention_factor(self)
    if len(self.short_factor) != len(self.long_factor):
      raise ValueError(
        "LongRope needs as many factors in short_factor as in long_factor, got "
        f"{len(self.short_factor)} and {len(self.long_factor)}. Give one a "
        "channel pair in both."
      )

  def at(self, length: int) -> RescaledRope:
    is_short = length <= self.trained_tokens
    factors = self.short_factor if is_short else self.long_factor
    return RescaledRope(self.theta, factors, self.attention_factor)


def _require_factors(scheme, field: str) -> None:
  factors = getattr(scheme, field)
  if not factors or not all(0 < factor < math.inf for factor in factors):
    wrong = [factor for factor in factors if not 0 < factor < math.inf]
    raise ValueError(
      f"{type(scheme).__name__} needs {field} that are finite and above 0, one "
      f"a channel pair, got {wrong[0] if wrong else 'none'}. 1 leaves a pair's "
      "frequency as it is."
    )


def _require_attention_factor(scheme) -> None:
  if not 0 < scheme.attention_factor < math.inf:
    raise ValueError(
      f"{type(scheme).__name__} needs a finite attention_factor above 0, got "
      f"{scheme.attention_factor}. 1 leaves q and k as long as they are."
    )
