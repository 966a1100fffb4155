"""Scoring and decoding as pure functions, compiled once for each shape.

Rotary frequencies are arguments, so that one compiled program serves RoPE, PI,
NTK, YaRN and no positions.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax import attention
from drope_jax.axes import Array
from drope_jax.model import cache as caches
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Pattern, Rope, Scheme, rotary

# Tokens, over all rows, for which scoring holds logits at a time.
SCORE_CHUNK = 512

# Ids in one block of `draw`.
_BLOCK = 128


class Positions(NamedTuple):
  """The rotary part of a configuration, as arrays.

  Attributes:
    frequencies_F: float32, radians per token.
    factor: q and k are each multiplied by it.
  """

  frequencies_F: Array
  factor: Array


def fix_length(scheme: Scheme | Pattern, length: int) -> Scheme | Pattern:
  """Returns the scheme for `length` tokens, if it depends on the length."""
  match scheme:
    case rotary.LengthDependent():
      return scheme.at(length)
    case Pattern():
      fixed = tuple(fix_length(layer, length) for layer in scheme.schemes)
      return dataclasses.replace(scheme, schemes=fixed)
  return scheme


def split_positions(
  config: ModelConfig, scheme: Scheme | Pattern
) -> tuple[ModelConfig, Positions | None]:
  """Returns a config that all rotary schemes share, and `scheme` as arrays.

  `Nope` has frequencies of 0. A scheme that is not rotary stays in the config,
  and there are no arrays.
  """
  F, odd = divmod(config.head_dim, 2)
  match scheme:
    case Nope() if not odd:
      frequencies_F, factor = np.zeros(F, np.float32), 1.0
    case rotary.Rotary():
      frequencies_F = scheme.frequencies(config.head_dim)
      factor = scheme.attention_factor
    case _:
      return dataclasses.replace(config, positional=scheme), None
  positions = Positions(
    jnp.asarray(frequencies_F), jnp.asarray(factor, jnp.float32)
  )
  return dataclasses.replace(config, positional=Rope()), positions


@functools.partial(jax.jit, static_argnames=("config", "backend"))
def score(
  config: ModelConfig,
  positions: Positions | None,
  params: transformer.Params,
  tokens_BS: Array,
  logit_scale: Array,
  backend: str,
) -> Array:
  """Returns log p(token i + 1 | tokens up to i) in nats, scores_BS.

  The last column has no next token and is 0. Logits are held for `SCORE_CHUNK`
  tokens at a time. Arguments are as of `generate`.
  """
  config = with_positions(config, positions)
  B, S = tokens_BS.shape
  x_BSM = transformer.hidden(
    config,
    params,
    tokens_BS,
    logit_scale=_for_queries(logit_scale, tokens_BS),
    backend=backend,
  )
  next_BS = jnp.pad(tokens_BS[:, 1:], ((0, 0), (0, 1)))

  def score_chunk(chunk):
    x_BcM, next_Bc = chunk
    logits_BcV = transformer.unembed(config, params, x_BcM)
    log_p_BcV = jax.nn.log_softmax(logits_BcV)
    return jnp.take_along_axis(log_p_BcV, next_Bc[..., None], -1)[..., 0]

  chunk = min(max(SCORE_CHUNK // B, 1), S)
  padding = -S % chunk
  x_BSM = jnp.pad(x_BSM, ((0, 0), (0, padding), (0, 0)))
  padded_BS = jnp.pad(next_BS, ((0, 0), (0, padding)))
  scores_nBc = jax.lax.map(
    score_chunk, (_chunks(x_BSM, chunk), _chunks(padded_BS, chunk))
  )
  scores_BS = jnp.moveaxis(scores_nBc, 0, 1).reshape(B, -1)[:, :S]
  return scores_BS.at[:, -1].set(0.0)


@functools.partial(
  jax.jit, static_argnames=("config", "max_new_tokens", "end_ids", "backend")
)
def generate(
  config: ModelConfig,
  positions: Positions | None,
  params: transformer.Params,
  tokens_BS: Array,
  length_B: Array,
  logit_scale: Array,
  temperature: Array,
  keys_B: Array,
  *,
  max_new_tokens: int,
  end_ids: tuple[int, ...],
  backend: str,
) -> Array:
  """Returns new tokens, int32 [B, max_new_tokens].

  A row that has ended is filled with the first of `end_ids`.

  Args:
    config, positions: from `split_positions`.
    params: of the model.
    tokens_BS: prompts, padded on the right with any ids.
    length_B: tokens of each prompt without padding, at least 1.
    logit_scale: multiplies attention logits; a scalar, or float32 [B].
    temperature: 0 decodes greedily.
    keys_B: for sampling; a row depends only on its own key.
    max_new_tokens: decoding stops earlier if every row has ended.
    end_ids: each of them ends a row.
    backend: of the attention.
  """
  config = with_positions(config, positions)
  B, S = tokens_BS.shape
  logits_BV, cache = prefill(
    config,
    params,
    tokens_BS,
    length_B,
    logit_scale,
    max_tokens=S + max_new_tokens,
    backend=backend,
  )

  def choose(logits_BV, count):
    keys_at_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, count)
    return jax.lax.cond(
      temperature > 0,
      lambda: draw(logits_BV, temperature, keys_at_B),
      lambda: jnp.argmax(logits_BV, axis=-1).astype(jnp.int32),
    )

  def unfinished(state):
    count, _, _, ended_B, _ = state
    return (count < max_new_tokens) & ~jnp.all(ended_B)

  def step(state):
    count, logits_BV, cache, ended_B, new_Bn = state
    token_B = jnp.where(ended_B, end_ids[0], choose(logits_BV, count))
    new_Bn = new_Bn.at[:, count].set(token_B)
    logits_BV, cache = extend(
      config, params, token_B, cache, logit_scale, backend=backend
    )
    ended_B |= jnp.isin(token_B, jnp.asarray(end_ids))
    return count + 1, logits_BV, cache, ended_B, new_Bn

  start = (
    jnp.asarray(0),
    logits_BV,
    cache,
    jnp.zeros(B, bool),
    jnp.full((B, max_new_tokens), end_ids[0], jnp.int32),
  )
  return jax.lax.while_loop(unfinished, step, start)[-1]


def draw(logits_BV: Array, temperature: Array, keys_B: Array) -> Array:
  """Returns token_B, drawn for each row from softmax(logits / temperature).

  It draws a block of ids, and then an id in the block. The distribution is that
  of one draw among all ids. One draw would need noise for every id, which
  takes longer than a small model.
  """
  B, V = logits_BV.shape
  # The largest becomes 0; the rest stay finite or -inf at any temperature.
  logits_BV -= logits_BV.max(axis=-1, keepdims=True)
  logits_BV /= temperature
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


def prefill(
  config: ModelConfig,
  params: transformer.Params,
  tokens_BS: Array,
  length_B: Array,
  logit_scale: Array,
  *,
  max_tokens: int,
  backend: attention.Choice,
) -> tuple[Array, caches.Cache]:
  """Returns float32 logits_BV for each prompt's next token, and the cache.

  Args:
    config, params, tokens_BS, length_B, logit_scale, backend: see `generate`.
    max_tokens: slots of the cache, for prompt and new tokens.
  """
  dtype = params["embed"]["table"].dtype
  x_BSM, cache = transformer.forward_cached(
    config,
    params,
    tokens_BS,
    caches.empty(config, tokens_BS.shape[0], max_tokens, dtype),
    from_empty=True,
    logit_scale=_for_queries(logit_scale, tokens_BS),
    backend=backend,
  )
  last_B1M = jnp.take_along_axis(x_BSM, length_B[:, None, None] - 1, axis=1)
  logits_BV = transformer.unembed(config, params, last_B1M)[:, 0]
  # Slots after a row's end hold padding, which its new tokens overwrite.
  return logits_BV, cache._replace(length_B=length_B)


def extend(
  config: ModelConfig,
  params: transformer.Params,
  token_B: Array,
  cache: caches.Cache,
  logit_scale: Array,
  *,
  backend: attention.Choice,
) -> tuple[Array, caches.Cache]:
  """Adds one token to each row; returns float32 logits_BV for the next."""
  token_B1 = token_B[:, None]
  x_B1M, cache = transformer.forward_cached(
    config,
    params,
    token_B1,
    cache,
    logit_scale=_for_queries(logit_scale, token_B1),
    backend=backend,
  )
  return transformer.unembed(config, params, x_B1M)[:, 0], cache


def _for_queries(logit_scale: Array, tokens_BS: Array) -> Array:
  """Returns a scale for each query, from one for each row."""
  if not jnp.ndim(logit_scale):
    return logit_scale
  return jnp.broadcast_to(logit_scale[:, None], tokens_BS.shape)


def with_positions(
  config: ModelConfig, positions: Positions | None
) -> ModelConfig:
  """Returns a config with these positions; inverts `split_positions`."""
  if positions is None:
    return config
  return dataclasses.replace(config, positional=rotary.Given(*positions))


def _chunks(x_BS: Any, chunk: int) -> Array:
  B, S = x_BS.shape[:2]
  return jnp.moveaxis(x_BS.reshape(B, S // chunk, chunk, *x_BS.shape[2:]), 1, 0)
