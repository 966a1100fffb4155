"""Rotary position embedding (RoPE), and what all its variants share."""

import abc
import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from drope_jax.axes import Array
from drope_jax.positional.scheme import Scheme

MOST_HEAD_DIM = 2**16
"""A damaged config may have a billion: frequencies of gigabytes."""


class Rotary(Scheme, abc.ABC):
  """Rotates each channel pair of q and k by an angle linear in position.

  Pairs are (i, i + D/2), the half-split layout of Hugging Face Llama weights;
  importers permute interleaved (Meta) weights to it. A variant chooses
  frequencies, and may multiply q and k by `attention_factor`.
  """

  @abc.abstractmethod
  def frequencies(self, head_dim: int) -> np.ndarray:
    """Returns float32 angles_F in radians per token, fastest first.

    Raises:
      ValueError: `head_dim` is odd, so channels cannot be paired.
    """

  @property
  def attention_factor(self) -> float:
    """What q and k are each multiplied by; logits take its square."""
    return 1.0

  def check(self, head_dim: int) -> None:
    self.frequencies(head_dim)

  def rotation(self, pos_BS: Array, head_dim: int) -> Array:
    """Returns table_B2SD: cosines and sines, times `attention_factor`."""
    # float32 throughout: bfloat16 cannot tell position 257 from 256.
    angle_BSF = pos_BS.astype(jnp.float32)[:, :, None] * self.frequencies(
      head_dim
    )
    return self.attention_factor * table(jnp.cos(angle_BSF), jnp.sin(angle_BSF))


@dataclasses.dataclass(frozen=True)
class GeometricRotary(Rotary):
  """A rotation whose frequencies come from RoPE's geometric sequence.

  Attributes:
    theta: ratio of the longest wavelength to the shortest. Unitless.
  """

  theta: float = 10_000.0

  def __post_init__(self):
    require_theta(self)


@dataclasses.dataclass(frozen=True)
class Rope(GeometricRotary):
  """Plain RoPE.

  Source: Su et al. 2021 (arXiv:2104.09864).
  """

  def frequencies(self, head_dim: int) -> np.ndarray:
    return geometric_frequencies(self.theta, head_dim)


class LengthDependent(Rotary):
  """A rotation whose frequencies follow the length of the sequence.

  The length is that of the sequence given to `rotation`. A key-value cache
  holds keys that were rotated for the length they came in at, so decoding fixes
  the length beforehand with `at`.

  Attributes:
    trained_tokens: the context before any extension, tokens.
  """

  trained_tokens: int

  def __post_init__(self):
    require_trained_tokens(self)

  @abc.abstractmethod
  def at(self, length: int) -> Rotary:
    """Returns the rotation of sequences of `length` tokens."""

  def frequencies(self, head_dim: int) -> np.ndarray:
    """Returns the frequencies at `trained_tokens`."""
    return self.at(self.trained_tokens).frequencies(head_dim)

  def rotation(self, pos_BS: Array, head_dim: int) -> Array:
    return self.at(pos_BS.shape[1]).rotation(pos_BS, head_dim)


@dataclasses.dataclass(frozen=True, eq=False)
class Given(Rotary):
  """Rotation by frequencies that are data, and may be traced.

  It lets one compiled program serve every rotary scheme of a comparison. It
  lives inside a function under `jit`, never in a stored configuration.

  Attributes:
    frequencies_F: float32 radians per token.
    attention_factor: what q and k are each multiplied by; scalar.
  """

  frequencies_F: Array
  attention_factor: Array | float = 1.0

  def frequencies(self, head_dim: int) -> Array:
    assert self.frequencies_F.shape == (head_dim // 2,)
    return self.frequencies_F


def table(cos_BSF: Array, sin_BSF: Array) -> Array:
  """Returns what `Scheme.rotation` does, table_B2SD, of each pair's waves."""
  return jnp.stack(
    [
      jnp.concatenate([cos_BSF, cos_BSF], axis=-1),
      jnp.concatenate([-sin_BSF, sin_BSF], axis=-1),
    ],
    axis=1,
  )


def require_theta(scheme) -> None:
  """Raises ValueError unless `scheme.theta` is finite and above 1."""
  if not 1.0 < scheme.theta < math.inf:
    raise ValueError(
      f"{type(scheme).__name__} needs a finite theta above 1, got "
      f"{scheme.theta}. Llama's is 10000."
    )


def require_trained_tokens(scheme) -> None:
  """Raises ValueError unless `scheme.trained_tokens` is at least 1."""
  if scheme.trained_tokens < 1:
    raise ValueError(
      f"{type(scheme).__name__} needs trained_tokens of at least 1, got "
      f"{scheme.trained_tokens}. Give the context the weights were trained at."
    )


def geometric_frequencies(theta: float, head_dim: int) -> np.ndarray:
  """Returns float32 omega_F, omega_m = theta^(-2m / head_dim).

  Raises:
    ValueError: `head_dim` is odd, or beyond `MOST_HEAD_DIM`.
  """
  if head_dim % 2:
    raise ValueError(
      f"Rope needs an even head_dim to pair channels, got {head_dim}. "
      "Change ModelConfig.head_dim, or use Nope()."
    )
  if head_dim > MOST_HEAD_DIM:
    raise ValueError(
      f"Rope needs a head_dim of at most {MOST_HEAD_DIM}, got {head_dim}. Set "
      "ModelConfig.head_dim to the model's."
    )
  # float64 until the end: the last pair's exponent multiplies its rounding.
  pair_F = np.arange(0, head_dim, 2, dtype=np.float64)
  return (theta ** (-pair_F / head_dim)).astype(np.float32)
