"""RoPE scaling: each scheme chooses frequencies for a longer context.

omega_m is RoPE's frequency of pair m, s the factor by which the context grows
(`factor`), L the context the weights were trained at (`trained_tokens`). The
rotation itself is `rotary.Rotary`'s.
"""

import dataclasses
import math

import numpy as np

from drope_jax.positional import partial, rotary
from drope_jax.positional.pattern import Pattern
from drope_jax.positional.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class _Scaled(rotary.GeometricRotary):
  """A rotation for a context that grows by `factor`."""

  factor: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    if not 1.0 <= self.factor < math.inf:
      raise ValueError(
        f"{type(self).__name__} needs a finite factor of at least 1, got "
        f"{self.factor}. It is target length / trained length."
      )


@dataclasses.dataclass(frozen=True)
class PositionInterpolation(_Scaled):
  """Linear position interpolation (PI): every omega_m divided by s.

  Source: Chen et al. 2023 (arXiv:2306.15595); transformers' "linear".
  """

  def frequencies(self, head_dim: int) -> np.ndarray:
    omega_F = rotary.geometric_frequencies(self.theta, head_dim)
    return omega_F / np.float32(self.factor)


@dataclasses.dataclass(frozen=True)
class NtkAware(_Scaled):
  """NTK-aware scaling: theta becomes theta * s^(D / (D - 2)).

  The slowest pair is divided by s, the fastest stays. transformers' "dynamic"
  at length s L and factor 1 has these frequencies.

  Source: bloc97 2023, as in YaRN (arXiv:2309.00071), section 3.1.
  """

  def frequencies(self, head_dim: int) -> np.ndarray:
    return self.as_rope(head_dim).frequencies(head_dim)

  def as_rope(self, head_dim: int) -> rotary.Rope:
    """Returns plain RoPE of the same frequencies."""
    if head_dim <= 2:
      raise ValueError(
        f"NtkAware needs a head_dim above 2, got {head_dim}: with one pair "
        "there is no slow frequency to stretch. Use PositionInterpolation."
      )
    with np.errstate(over="ignore"):
      stretch = np.float64(self.factor) ** (head_dim / (head_dim - 2))
      theta = float(self.theta * stretch)
    if theta == math.inf:
      raise ValueError(
        "NtkAware needs a finite theta * factor^(D / (D - 2)), got theta "
        f"{self.theta:g} and factor {self.factor:g}. Lower the factor."
      )
    return rotary.Rope(theta)


@dataclasses.dataclass(frozen=True)
class Yarn(_Scaled):
  """YaRN: slow pairs are divided by s, fast pairs are not, with a ramp between.

  The ramp is linear in the pair's index between the pairs that complete
  `beta_fast` and `beta_slow` rotations in L tokens: the authors' code and
  transformers. (The paper's text ramps over the number of rotations.)

  Attributes:
    trained_tokens: L, tokens.
    beta_fast: rotations in L above which a pair is left alone.
    beta_slow: rotations in L below which a pair is fully interpolated.
    length_factor: what q and k are each multiplied by; None for the paper's
      0.1 ln s + 1.
    truncate: whether the ramp's ends are floored and ceiled to whole pairs.

  Source: Peng et al. 2023 (arXiv:2309.00071), section 3.4.
  """

  trained_tokens: int = 4096
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  length_factor: float | None = None
  truncate: bool = True

  def __post_init__(self):
    super().__post_init__()
    rotary.require_trained_tokens(self)
    if not self.beta_fast > self.beta_slow > 0:
      raise ValueError(
        "Yarn needs beta_fast > beta_slow > 0, got "
        f"{self.beta_fast} and {self.beta_slow}. The paper's are 32 and 1."
      )
    if self.length_factor is not None and not 0 < self.length_factor < math.inf:
      raise ValueError(
        "Yarn needs a finite length_factor above 0, or None, got "
        f"{self.length_factor}. None is the paper's."
      )

  @property
  def attention_factor(self) -> float:
    if self.length_factor is not None:
      return self.length_factor
    return 0.1 * math.log(self.factor) + 1.0

  def frequencies(self, head_dim: int) -> np.ndarray:
    omega_F = rotary.geometric_frequencies(self.theta, head_dim)

    def pair_completing(rotations: float) -> float:
      span = self.trained_tokens / (2 * math.pi * rotations)
      return head_dim * math.log(span) / (2 * math.log(self.theta))

    first, last = map(pair_completing, (self.beta_fast, self.beta_slow))
    if self.truncate:
      first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    # transformers' guard against a ramp of no width.
    width = (last - first) or 1e-3
    # The ramp is rounded as theirs: near its end 1 - ramp has few digits left.
    pair_F = np.arange(len(omega_F), dtype=np.float32)
    ramp_F = np.clip((pair_F - first) / width, 0.0, 1.0).astype(np.float64)
    mixed_F = omega_F * (1.0 - ramp_F) + omega_F / self.factor * ramp_F
    return mixed_F.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Llama3Rope(_Scaled):
  """Llama 3.1's rule: a ramp over the number of rotations, no temperature.

  Attributes:
    trained_tokens: the context before the extension, tokens.
    low_freq_factor: rotations in it below which a pair is divided by `factor`.
    high_freq_factor: rotations in it above which a pair is left alone.

  Source: meta-llama/llama-models, `apply_scaling`; transformers' "llama3".
  """

  theta: float = 500_000.0
  factor: float = 8.0
  trained_tokens: int = 8192
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0

  def __post_init__(self):
    super().__post_init__()
    rotary.require_trained_tokens(self)
    if not self.high_freq_factor > self.low_freq_factor > 0:
      raise ValueError(
        "Llama3Rope needs high_freq_factor > low_freq_factor > 0, got "
        f"{self.high_freq_factor} and {self.low_freq_factor}. Llama 3.1's "
        "are 4 and 1."
      )

  def frequencies(self, head_dim: int) -> np.ndarray:
    omega_F = rotary.geometric_frequencies(self.theta, head_dim)
    rotations_F = self.trained_tokens * omega_F / (2 * math.pi)
    low, high = self.low_freq_factor, self.high_freq_factor
    keep_F = np.clip((rotations_F - low) / (high - low), 0.0, 1.0)
    mixed_F = keep_F * omega_F + (1.0 - keep_F) * omega_F / self.factor
    return mixed_F.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class CriticalNtk(_Scaled):
  """LongRoPE2's rule without its search: NTK-aware up to the critical pair.

  The critical pair is the first that completes no rotation in L tokens. It and
  all slower ones are divided by s. Pair m before it, which is number c, is
  divided by s^(m / c): another theta, which leaves the fastest pair alone.
  LongRoPE2 then looks for an earlier critical pair, and for a better factor of
  each pair from there on, by the loss of answers about needles.

  Attributes:
    trained_tokens: L, tokens.

  Source: Shang et al. 2025 (arXiv:2502.20082), section 3; its temperature is
    that of LongRoPE (arXiv:2402.13753), sqrt(1 + ln s / ln L).
  """

  trained_tokens: int = 4096

  def __post_init__(self):
    super().__post_init__()
    if self.trained_tokens < 2:
      raise ValueError(
        "CriticalNtk needs trained_tokens of at least 2, got "
        f"{self.trained_tokens}. Give the context that it was trained with."
      )

  @property
  def attention_factor(self) -> float:
    if self.factor == 1:
      return 1.0
    return math.sqrt(1 + math.log(self.factor) / math.log(self.trained_tokens))

  def frequencies(self, head_dim: int) -> np.ndarray:
    rope = rotary.Rope(self.theta)
    critical = partial.complete_pairs(rope, head_dim, self.trained_tokens)
    pair_F = np.arange(head_dim // 2)
    share_F = np.where(pair_F < critical, pair_F / max(critical, 1), 1.0)
    divisor_F = np.power(self.factor, share_F)
    omega_F = rope.frequencies(head_dim)
    return (omega_F / divisor_F).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Dynamic(rotary.LengthDependent):
  """A scaling whose factor follows the current length.

  Up to L tokens it is 1; each L more adds `scaling.factor`, so that a factor of
  1 there follows length / L.

  Attributes:
    scaling: the rule, with the growth of its factor in the factor's place.
    trained_tokens: L, tokens.

  Source: transformers' "dynamic", whose rule is `NtkAware`.
  """

  scaling: PositionInterpolation | NtkAware | Yarn = NtkAware()
  trained_tokens: int = 4096

  def at(self, length: int) -> rotary.Rotary:
    grown = max(length / self.trained_tokens - 1.0, 0.0)
    factor = 1.0 + self.scaling.factor * grown
    return dataclasses.replace(self.scaling, factor=factor)


STRETCHES = ("pi", "ntk", "yarn")
METHODS = ("rope", *STRETCHES, "longrope2")


def scaled(
  scheme: Scheme | Pattern, method: str, factor: float, trained_tokens: int
) -> rotary.Rotary:
  """Returns the scheme that reads `factor` times the trained context.

  Args:
    scheme: what the weights were trained with; plain RoPE.
    method: "rope" (as it is), "pi", "ntk", "yarn" or "longrope2".
    factor: s, at least 1.
    trained_tokens: L, tokens.

  Raises:
    ValueError: the method is unknown, or `scheme` is not plain RoPE, whose
      frequencies the three rules are stated for.
  """
  if method not in METHODS:
    raise ValueError(
      f"A position method must be one of {', '.join(METHODS)}, got {method!r}. "
      "Name one of these."
    )
  if not isinstance(scheme, rotary.Rope):
    raise ValueError(
      f"The position method {method!r} needs a model with plain Rope, got "
      f'{scheme}. Keep its own (the method "model" of an evaluation).'
    )
  match method:
    case "pi":
      return PositionInterpolation(scheme.theta, factor)
    case "ntk":
      return NtkAware(scheme.theta, factor)
    case "yarn":
      return Yarn(scheme.theta, factor, trained_tokens)
    case "longrope2":
      return CriticalNtk(scheme.theta, factor, trained_tokens)
  return scheme
