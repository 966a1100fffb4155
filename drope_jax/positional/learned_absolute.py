"""Learned absolute positions: a table that is added to the embeddings."""

import dataclasses
import math

import jax.numpy as jnp

from drope_jax.axes import Array
from drope_jax.positional.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class LearnedAbsolute(Scheme):
  """A learned vector for each position, added to the token's embedding.

  Position p reads the table at p / stretch, between two rows by their weighted
  mean, and from the last row on that row. A sequence has at most
  tokens * stretch tokens, rounded as lengths of an evaluation are.

  Attributes:
    tokens: rows of the table.
    stretch: s, at least 1. At 1 each position has its own row; a trained table
      is read at s times its length by a stretch of s.

  Source: GPT-2 (Radford et al. 2019). The stretch is ViT's interpolation
    (arXiv:2010.11929, section 3.2), to which PI (arXiv:2306.15595) refers.
  """

  tokens: int = 1024
  stretch: float = 1.0

  def __post_init__(self):
    if self.tokens < 1:
      raise ValueError(
        "LearnedAbsolute needs a table of at least 1 row, got tokens of "
        f"{self.tokens}. Give the longest context of training."
      )
    if not 1 <= self.stretch < math.inf:
      raise ValueError(
        "LearnedAbsolute needs a finite stretch of at least 1, got "
        f"{self.stretch}. It is target length / trained length."
      )

  @property
  def table_tokens(self) -> int:
    return self.tokens

  @property
  def most_tokens(self) -> int:
    return round(self.tokens * self.stretch)

  @property
  def is_fixed(self) -> bool:
    return True

  def at(self, length: int) -> "LearnedAbsolute":
    """Returns the scheme itself.

    Raises:
      ValueError: the table ends before `length`.
    """
    if length > self.most_tokens:
      raise ValueError(
        f"Learned positions reach {self.most_tokens} tokens, got a sequence "
        f"of {length}. Read less at a time (the method crop), stretch the "
        "table (the method pi), drop the positions, or train a longer table."
      )
    return self

  def stretched(self, factor: float) -> "LearnedAbsolute":
    """Returns the same table, read at `factor` times its length."""
    return dataclasses.replace(self, stretch=self.stretch * factor)

  def embedding(self, table_PM: Array, pos_BS: Array) -> Array:
    if self.stretch == 1:
      return table_PM.at[pos_BS].get(mode="clip")
    row_BS = jnp.minimum(pos_BS / jnp.float32(self.stretch), self.tokens - 1)
    before_BS = jnp.floor(row_BS).astype(jnp.int32)
    after_BS = jnp.minimum(before_BS + 1, self.tokens - 1)
    share_BS1 = (row_BS - before_BS)[..., None]
    before_BSM, after_BSM = (
      table_PM[at_BS].astype(jnp.float32) for at_BS in (before_BS, after_BS)
    )
    return (1 - share_BS1) * before_BSM + share_BS1 * after_BSM
