"""A softmax scale that grows with the query's position."""

from collections.abc import Mapping
import dataclasses
import math

import jax.numpy as jnp

from drope_jax.axes import Array
from drope_jax.positional.nope import Nope
from drope_jax.positional.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class LogScaled(Scheme):
  """A scheme whose logits are scaled by the logarithm of the query's position.

  The i-th token of a sequence, from 1, has its logits multiplied by
  1 + c ln(i / L) where i is above L, and by 1 up to there. Attention spreads
  over more keys as a sequence grows; the scale keeps it sharp.

  Attributes:
    scheme: what rotates q and k, and the bias.
    trained_tokens: L, the context that the weights were trained at.
    slope: c; None for 1 / ln L, with which the scale is ln i / ln L ("log-n").

  Source: log-n is Su 2021 (kexue.fm/archives/8823) and Qwen's
    `use_logn_attn`; SWAN-GPT (arXiv:2504.08719) scales its NoPE layers so.
    DroPE (arXiv:2512.12167) has the same c for all queries of a sequence.
  """

  scheme: Scheme = Nope()
  trained_tokens: int = 4096
  slope: float | None = None

  def __post_init__(self):
    if not isinstance(self.scheme, Scheme):
      raise ValueError(
        f"LogScaled needs one scheme, got {self.scheme}. In a Pattern, wrap "
        "each scheme that is to be scaled."
      )
    if isinstance(self.scheme, LogScaled):
      raise ValueError(
        "LogScaled needs a scheme without a scale of its own, got "
        f"{self.scheme}. Give its scheme, and one slope for both."
      )
    if self.trained_tokens < 2:
      raise ValueError(
        "LogScaled needs trained_tokens of at least 2, got "
        f"{self.trained_tokens}. Give the context the weights were trained at."
      )
    if self.slope is not None and not 0 <= self.slope < math.inf:
      raise ValueError(
        "LogScaled needs a finite slope of at least 0, or None, got "
        f"{self.slope}. None is 1 / ln(trained_tokens)."
      )

  def check(self, head_dim: int) -> None:
    self.scheme.check(head_dim)

  @property
  def is_fixed(self) -> bool:
    return self.scheme.is_fixed

  def at(self, length: int) -> "LogScaled":
    return dataclasses.replace(self, scheme=self.scheme.at(length))

  @property
  def most_tokens(self) -> int | None:
    return self.scheme.most_tokens

  @property
  def table_tokens(self) -> int | None:
    return self.scheme.table_tokens

  def embedding(self, table_PM: Array, pos_BS: Array) -> Array:
    return self.scheme.embedding(table_PM, pos_BS)

  def rotation(self, pos_BS: Array, head_dim: int) -> Array | None:
    return self.scheme.rotation(pos_BS, head_dim)

  def bias_slopes(self, num_heads: int) -> Array | None:
    return self.scheme.bias_slopes(num_heads)

  def bias(self, num_heads: int, distance_T: Array) -> Array | None:
    return self.scheme.bias(num_heads, distance_T)

  @property
  def learns(self) -> bool:
    return self.scheme.learns

  def init(self, num_heads: int, key: Array) -> dict[str, Array]:
    return self.scheme.init(num_heads, key)

  def learned_bias(
    self, learned: Mapping[str, Array], distance_T: Array
  ) -> Array:
    return self.scheme.learned_bias(learned, distance_T)

  def query_scale(self, pos_BS: Array) -> Array:
    slope = self.slope
    if slope is None:
      slope = 1 / math.log(self.trained_tokens)
    factor_BS = (pos_BS + 1).astype(jnp.float32) / self.trained_tokens
    return 1 + slope * jnp.log(jnp.maximum(factor_BS, 1))


def unscaled(scheme: Scheme) -> Scheme:
  """Returns the scheme within a `LogScaled`; any other as it is."""
  return scheme.scheme if isinstance(scheme, LogScaled) else scheme
