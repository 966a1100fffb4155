"""What rotary scalings do to the frequency of each channel pair."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from drope_jax.positional import partial, rotary, scaling


@dataclasses.dataclass(frozen=True)
class Pairs:
  """The rotary pairs of a head under plain RoPE, fastest first.

  Attributes:
    omega_F: radians a token.
    rotations_F: completed in the trained context. Below one, training never
      showed the pair's whole circle, and longer contexts leave what it did.
  """

  omega_F: np.ndarray
  rotations_F: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scaling:
  """What a method multiplies each pair's frequency by, at one length.

  Attributes:
    method: "pi", "ntk" or "yarn".
    factor: s, the target length over the trained one.
    gamma_F: omega' / omega, fastest pair first.
  """

  method: str
  factor: float
  gamma_F: np.ndarray


def pairs(scheme: rotary.Rotary, head_dim: int, trained_tokens: int) -> Pairs:
  """Returns the frequencies of `scheme` and their rotations in the context."""
  omega_F = np.asarray(scheme.frequencies(head_dim), np.float64)
  return Pairs(omega_F, partial.rotations(scheme, head_dim, trained_tokens))


def gamma(
  scaled: rotary.Rotary, base: rotary.Rotary, head_dim: int
) -> np.ndarray:
  """Returns gamma_F = omega' / omega of any two rotary schemes, in float64."""
  new_F = np.asarray(scaled.frequencies(head_dim), np.float64)
  return new_F / np.asarray(base.frequencies(head_dim), np.float64)


def scalings(
  base: rotary.Rope,
  head_dim: int,
  trained_tokens: int,
  factors: Sequence[float],
) -> tuple[Scaling, ...]:
  """Returns PI's, NTK-aware's and YaRN's gammas at each factor.

  Raises:
    ValueError: `base` is not plain RoPE, or a factor is below 1.
  """
  found = []
  for factor in factors:
    for method in scaling.STRETCHES:
      scaled = scaling.scaled(base, method, factor, trained_tokens)
      assert isinstance(scaled, rotary.Rotary)  # As `base` is.
      found.append(Scaling(method, factor, gamma(scaled, base, head_dim)))
  return tuple(found)
