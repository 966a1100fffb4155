"""How the next token is chosen from the logits: the largest, or a sample."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from drope_jax.axes import Array

# Ids among which `draw` chooses at a time.
_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Settings of sampling, as other libraries name them.

  They apply in this order: repetition penalty, temperature, top-k, top-p,
  min-p, which is that of Hugging Face transformers. None leaves one out.

  Attributes:
    temperature: divides the logits; at 0 the largest one is chosen.
    top_k: keeps the ids of the k largest logits.
    top_p: keeps the most probable ids whose probabilities add up to p.
    min_p: keeps the ids at least min_p times as probable as the first one.
    repetition_penalty: divides positive logits of ids that the prompt or the
      continuation holds, and multiplies negative ones (arXiv:1909.05858).
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
      ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
      ("top_p", self.top_p is None or 0 < self.top_p <= 1, "in (0, 1]"),
      ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "in [0, 1]"),
      (
        "repetition_penalty",
        self.repetition_penalty is None
        or 0 < self.repetition_penalty < math.inf,
        "above 0",
      ),
    ):
      if not fits:
        raise ValueError(
          f"Sampling.{name} must be {required}, got {getattr(self, name)}. "
          "Change it."
        )

  def arrays(self) -> "Filters":
    """Returns the settings as what a compiled program takes."""
    as_float = (
      None if value is None else jnp.float32(value)
      for value in (self.top_p, self.min_p, self.repetition_penalty)
    )
    top_k = None if self.top_k is None else jnp.int32(self.top_k)
    return Filters(jnp.float32(self.temperature), top_k, *as_float)


GREEDY = Sampling()


class Filters(NamedTuple):
  """`Sampling` as scalars; None is known to the compiler, values are not."""

  temperature: Array
  top_k: Array | None = None
  top_p: Array | None = None
  min_p: Array | None = None
  repetition_penalty: Array | None = None


def choose(
  logits_BV: Array, filters: Filters, seen_BV: Array | None, keys_B: Array
) -> Array:
  """Returns an id of each row, int32 token_B.

  Args:
    logits_BV: float32.
    filters: of `Sampling`.
    seen_BV: whether a row holds an id; with a repetition penalty only.
    keys_B: a row's draw depends on its own alone.
  """
  if filters.repetition_penalty is not None:
    logits_BV = penalised(logits_BV, seen_BV, filters.repetition_penalty)
  return jax.lax.cond(
    filters.temperature > 0,
    lambda: draw(
      filtered(tempered(logits_BV, filters.temperature), filters), keys_B
    ),
    lambda: jnp.argmax(logits_BV, axis=-1).astype(jnp.int32),
  )


def penalised(logits_BV: Array, seen_BV: Array, penalty: Array) -> Array:
  """Returns logits_BV, those of ids that a row holds made less likely."""
  less_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
  return jnp.where(seen_BV, less_BV, logits_BV)


def tempered(logits_BV: Array, temperature: Array) -> Array:
  """Returns logits_BV / temperature, shifted so that the largest is 0."""
  # Shifted first: then none overflows, however small the temperature.
  shifted_BV = logits_BV - logits_BV.max(axis=-1, keepdims=True)
  return shifted_BV / temperature


def filtered(logits_BV: Array, filters: Filters) -> Array:
  """Returns logits_BV, -inf for the ids that top-k, top-p and min-p drop.

  Ids with the same logit as the last one kept are kept too.

  Args:
    logits_BV: from `tempered`.
    filters: which to apply.
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


def draw(logits_BV: Array, keys_B: Array) -> Array:
  """Returns an id of each row, int32 token_B, drawn by softmax(logits_BV).

  First a block of ids is drawn, then an id of the block. The distribution is
  that of one draw among all ids, which would need noise for each of them: more
  work than a small model's own.
  """
  B, V = logits_BV.shape
  padded_BV = jnp.pad(
    logits_BV, ((0, 0), (0, -V % _BLOCK)), constant_values=-jnp.inf
  )
  logits_Bbi = padded_BV.reshape(B, -1, _BLOCK)
  sums_Bb = jax.nn.logsumexp(logits_Bbi, axis=-1)

  def draw_one(sums_b, logits_bi, key):
    block_key, id_key = jax.random.split(key)
    block = jax.random.categorical(block_key, sums_b)
    return block * _BLOCK + jax.random.categorical(id_key, logits_bi[block])

  return jax.vmap(draw_one)(sums_Bb, logits_Bbi, keys_B).astype(jnp.int32)
