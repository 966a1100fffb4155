"""How the next token is chosen from the logits: the largest, or a sample."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from drope_jax.axes import Array

# Ids in one block of `draw` and `largest`.
_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Settings of sampling, with the names of other libraries.

  They are applied in the order of Hugging Face transformers: repetition
  penalty, temperature, top-k, top-p, min-p. None leaves one out.

  Attributes:
    temperature: divides the logits; 0 chooses the id with the largest logit.
    top_k: keeps the ids of the k largest logits.
    top_p: keeps the fewest ids, most probable first, with a total probability
      of at least p.
    min_p: keeps the ids at least min_p times as probable as the most probable.
    repetition_penalty: divides the positive logits of ids in the prompt or the
      continuation, and multiplies the negative ones (arXiv:1909.05858).
    seed: of all draws.
  """

  temperature: float = 0.0
  top_k: int | None = None
  top_p: float | None = None
  min_p: float | None = None
  repetition_penalty: float | None = None
  seed: int = 0

  def __post_init__(self):
    for name, fits, required in (
      ("temperature", 0 <= self.temperature < math.inf, "at least 0"),
      (
        "top_k",
        self.top_k is None or 1 <= self.top_k < 2**31,
        "at least 1 and less than 2**31",
      ),
      ("top_p", self.top_p is None or 0 < self.top_p <= 1, "in (0, 1]"),
      ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "in [0, 1]"),
      (
        "repetition_penalty",
        self.repetition_penalty is None
        or 0 < self.repetition_penalty < math.inf,
        "above 0",
      ),
      ("seed", 0 <= self.seed < 2**32, "in 0..2**32 - 1"),
    ):
      if not fits:
        raise ValueError(
          f"Sampling.{name} must be {required}, got {getattr(self, name)}. "
          "Change it."
        )

  def arrays(self) -> "Filters":
    """Returns the settings as arguments of a compiled program."""
    as_float = (
      None if value is None else jnp.float32(value)
      for value in (self.top_p, self.min_p, self.repetition_penalty)
    )
    top_k = None if self.top_k is None else jnp.int32(self.top_k)
    return Filters(jnp.float32(self.temperature), top_k, *as_float)


GREEDY = Sampling()


class Filters(NamedTuple):
  """`Sampling` as scalar arrays; only whether one is None is static."""

  temperature: Array
  top_k: Array | None = None
  top_p: Array | None = None
  min_p: Array | None = None
  repetition_penalty: Array | None = None


def choose(
  logits_BV: Array, filters: Filters, seen_BV: Array | None, keys_B: Array
) -> Array:
  """Returns token_B, int32: the chosen id of each row.

  Args:
    logits_BV: float32.
    filters: from `Sampling.arrays`.
    seen_BV: whether a row contains an id; needed for a repetition penalty.
    keys_B: a row's draw depends only on its own key.
  """
  if filters.repetition_penalty is not None:
    logits_BV = penalize(logits_BV, seen_BV, filters.repetition_penalty)
  return jax.lax.cond(
    filters.temperature > 0,
    lambda: draw(
      apply_filters(apply_temperature(logits_BV, filters.temperature), filters),
      keys_B,
    ),
    lambda: largest(logits_BV),
  )


def penalize(logits_BV: Array, seen_BV: Array, penalty: Array) -> Array:
  """Returns logits_BV with the penalty applied to ids that a row contains."""
  less_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
  return jnp.where(seen_BV, less_BV, logits_BV)


def apply_temperature(logits_BV: Array, temperature: Array) -> Array:
  """Returns logits_BV / temperature, shifted so that the largest is 0."""
  # Shifted first, so that no logit overflows at a small temperature.
  shifted_BV = logits_BV - logits_BV.max(axis=-1, keepdims=True)
  return shifted_BV / temperature


def apply_filters(logits_BV: Array, filters: Filters) -> Array:
  """Returns logits_BV with -inf for ids that top-k, top-p or min-p remove.

  Ids with the same logit as the last one kept are kept too.

  Args:
    logits_BV: from `apply_temperature`.
    filters: the ones to apply.
  """
  V = logits_BV.shape[-1]
  least_B1 = jnp.full((logits_BV.shape[0], 1), -jnp.inf)
  if filters.top_k is not None or filters.top_p is not None:
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    k = V if filters.top_k is None else filters.top_k
    kept_BV = jnp.broadcast_to(jnp.arange(V) < k, sorted_BV.shape)
    if filters.top_p is not None:
      p_BV = jax.nn.softmax(sorted_BV, axis=-1, where=kept_BV)
      before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
      kept_BV &= before_BV < filters.top_p
      kept_BV = kept_BV.at[:, 0].set(True)
    least_B1 = jnp.min(
      sorted_BV, axis=-1, keepdims=True, where=kept_BV, initial=0.0
    )
  if filters.min_p is not None:
    least_B1 = jnp.maximum(least_B1, jnp.log(filters.min_p))
  return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)


def largest(logits_BV: Array) -> Array:
  """Returns token_B, int32: the first id of each row with the largest logit.

  XLA compares the logits of a CPU's argmax one by one, but finds the largest of
  a block many at once.
  """
  logits_Bbi = _in_blocks(logits_BV)
  block_B = jnp.argmax(logits_Bbi.max(axis=-1), axis=-1)
  largest_Bi = jnp.take_along_axis(logits_Bbi, block_B[:, None, None], axis=1)
  index_B = jnp.argmax(largest_Bi[:, 0], axis=-1)
  return (block_B * _BLOCK + index_B).astype(jnp.int32)


def draw(logits_BV: Array, keys_B: Array) -> Array:
  """Returns token_B, int32, drawn for each row from softmax(logits_BV).

  It draws a block of ids, and then an id in the block. The distribution is that
  of one draw among all ids. One draw would need noise for every id, which takes
  longer than a small model.
  """
  logits_Bbi = _in_blocks(logits_BV)
  sums_Bb = jax.nn.logsumexp(logits_Bbi, axis=-1)

  def draw_one(sums_b, logits_bi, key):
    block_key, id_key = jax.random.split(key)
    block = jax.random.categorical(block_key, sums_b)
    return block * _BLOCK + jax.random.categorical(id_key, logits_bi[block])

  return jax.vmap(draw_one)(sums_Bb, logits_Bbi, keys_B).astype(jnp.int32)


def _in_blocks(logits_BV: Array) -> Array:
  """Returns logits_Bbi, filled up with -inf."""
  B, V = logits_BV.shape
  padded_BV = jnp.pad(
    logits_BV, ((0, 0), (0, -V % _BLOCK)), constant_values=-jnp.inf
  )
  return padded_BV.reshape(B, -1, _BLOCK)
