"""Rotary positions on the fastest channel pairs alone; the others have none."""

import dataclasses
import math

import numpy as np

from drope_jax.positional import rotary


@dataclasses.dataclass(frozen=True)
class PartialRope(rotary.Rotary):
  """A rotary scheme whose slow pairs do not rotate.

  A pair that completes at least one rotation in the trained context has met
  every phase there, so no longer distance is new to it. The others are what
  breaks beyond the context, and what every scaling must compress.

  Attributes:
    rope: whose frequencies and attention factor the fast pairs keep.
    pairs: how many of the fastest pairs rotate; see `complete_pairs`.

  Source: as a scheme of training, p-RoPE, Barbero et al. 2024
  (arXiv:2410.06205).
  """

  rope: rotary.GeometricRotary = rotary.Rope()
  pairs: int = 1

  def __post_init__(self):
    if self.pairs < 1:
      raise ValueError(
        "PartialRope needs at least 1 pair that rotates, got "
        f"{self.pairs}. Raise it, or use Nope()."
      )

  @property
  def attention_factor(self) -> float:
    return self.rope.attention_factor

  def frequencies(self, head_dim: int) -> np.ndarray:
    omega_F = self.rope.frequencies(head_dim).copy()
    if self.pairs > len(omega_F):
      raise ValueError(
        f"PartialRope.pairs must be at most half of head_dim {head_dim}, got "
        f"{self.pairs}. Lower it."
      )
    omega_F[self.pairs :] = 0.0
    return omega_F


def rotations(
  scheme: rotary.Rotary, head_dim: int, context_tokens: int
) -> np.ndarray:
  """Returns float64 rotations_F, which each pair completes in a context."""
  omega_F = scheme.frequencies(head_dim).astype(np.float64)
  return context_tokens * omega_F / (2 * math.pi)


def complete_pairs(
  scheme: rotary.Rotary, head_dim: int, context_tokens: int, least: float = 1.0
) -> int:
  """Returns how many pairs complete at least `least` rotations in a context."""
  return int((rotations(scheme, head_dim, context_tokens) >= least).sum())
