"""Decoding as pure functions, compiled once for each shape."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from drope_jax import attention
from drope_jax.axes import Array
from drope_jax.inference import choice
from drope_jax.model import cache as caches
from drope_jax.model import rotations, transformer
from drope_jax.model.config import ModelConfig


class Rows(NamedTuple):
  """Continuations in progress, one in each row.

  Attributes:
    logits_BV: float32, for each row's next token.
    cache: of the prompt and the new tokens.
    ended_B: whether a row has ended.
    seen_BV: which ids a row contains; None without a repetition penalty.
    count: int32, new tokens so far.
  """

  logits_BV: Array
  cache: caches.Cache
  ended_B: Array
  seen_BV: Array | None
  count: Array


@functools.partial(
  jax.jit,
  static_argnames=(
    "config",
    "max_tokens",
    "shared_tokens",
    "chunk_tokens",
    "with_seen",
    "backend",
    "mesh",
  ),
)
def start(
  config: ModelConfig,
  rotation: rotations.Rotation | None,
  params: transformer.Params,
  tokens_BS: Array,
  length_B: Array,
  logit_scale: Array,
  *,
  max_tokens: int,
  shared_tokens: int = 0,
  chunk_tokens: int | None = None,
  with_seen: bool = False,
  backend: attention.Choice,
  mesh: jax.sharding.Mesh | None = None,
) -> Rows:
  """Returns rows after the prefill of their prompts.

  Args:
    config, rotation: from `rotations.split`.
    params: of the model.
    tokens_BS: prompts, padded on the right with any ids.
    length_B: tokens of each prompt without padding, at least 1.
    logit_scale: multiplies attention logits; float32 [B].
    max_tokens: slots of the cache, for prompt and new tokens; at least S.
    shared_tokens: length of a prefix that all prompts share; less than the
      shortest prompt. Its prefill is done once, so `logit_scale` must be the
      same for all rows.
    chunk_tokens: tokens of a row in one forward pass, which limits the memory
      of activations; divides S and `shared_tokens`. Chunks after the longest
      prompt are skipped. None for one pass.
    with_seen: whether a repetition penalty will be applied.
    backend: of the attention.
    mesh: splits the cache, as `model.cache.shardings` has it; None: no sharding
      is set.
  """
  config = rotations.join(config, rotation)
  B, S = tokens_BS.shape
  options: dict[str, Any] = {"chunk_tokens": chunk_tokens, "backend": backend}
  assert mesh is None or not shared_tokens
  if shared_tokens:
    shared_1P = tokens_BS[:1, :shared_tokens]
    _, one = prefill(
      config,
      params,
      shared_1P,
      jnp.full(1, shared_tokens),
      logit_scale[:1],
      max_tokens=max_tokens,
      **options,
    )
    logits_BV, cache = prefill_chunks(
      config,
      params,
      tokens_BS,
      length_B,
      one.repeated(B),
      logit_scale,
      first=shared_tokens,
      **options | {"chunk_tokens": chunk_tokens or S - shared_tokens},
    )
  else:
    logits_BV, cache = prefill(
      config,
      params,
      tokens_BS,
      length_B,
      logit_scale,
      max_tokens=max_tokens,
      mesh=mesh,
      **options,
    )
  seen_BV = None
  if with_seen:
    real_BS = jnp.arange(S) < length_B[:, None]
    row_B1 = jnp.arange(B)[:, None]
    seen_BV = jnp.zeros(logits_BV.shape, bool)
    seen_BV = seen_BV.at[row_B1, tokens_BS].max(real_BS)
  return Rows(
    logits_BV, cache, jnp.zeros(B, bool), seen_BV, jnp.zeros((), jnp.int32)
  )


@functools.partial(
  jax.jit,
  static_argnames=("config", "steps", "end_ids", "backend"),
  donate_argnames="rows",
)
def advance(
  config: ModelConfig,
  rotation: rotations.Rotation | None,
  params: transformer.Params,
  rows: Rows,
  logit_scale: Array,
  filters: choice.Filters,
  keys_B: Array,
  limit: Array,
  *,
  steps: int,
  end_ids: tuple[int, ...],
  backend: attention.Choice,
) -> tuple[Rows, Array]:
  """Returns the rows with more tokens, and these tokens, int32 new_Bn.

  A row that has ended is filled with the first of `end_ids`. The loop stops
  when every row has ended.

  Args:
    config, rotation, params, logit_scale, backend: as in `start`.
    rows: from `start`, with free slots in their cache. Donated.
    filters: how a token is chosen.
    keys_B: for sampling; a row depends only on its own key.
    limit: new tokens of each row, at most `steps`; may be traced.
    steps: n, the size of the result.
    end_ids: each of them ends a row.
  """
  config = rotations.join(config, rotation)
  B = rows.ended_B.shape[0]

  def unfinished(state):
    n, rows, _ = state
    return (n < limit) & ~jnp.all(rows.ended_B)

  def step(state):
    n, rows, new_Bn = state
    keys_at_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, rows.count)
    token_B = choice.choose(rows.logits_BV, filters, rows.seen_BV, keys_at_B)
    token_B = jnp.where(rows.ended_B, end_ids[0], token_B)
    logits_BV, cache = extend(
      config, params, token_B, rows.cache, logit_scale, backend=backend
    )
    seen_BV = rows.seen_BV
    if seen_BV is not None:
      seen_BV = seen_BV.at[jnp.arange(B), token_B].set(True)
    ended_B = rows.ended_B | jnp.isin(token_B, jnp.asarray(end_ids))
    rows = Rows(logits_BV, cache, ended_B, seen_BV, rows.count + 1)
    return n + 1, rows, new_Bn.at[:, n].set(token_B)

  new_Bn = jnp.full((B, steps), end_ids[0], jnp.int32)
  begin = (jnp.zeros((), jnp.int32), rows, new_Bn)
  _, rows, new_Bn = jax.lax.while_loop(unfinished, step, begin)
  return rows, new_Bn


def prefill(
  config: ModelConfig,
  params: transformer.Params,
  tokens_BS: Array,
  length_B: Array,
  logit_scale: Array,
  *,
  max_tokens: int,
  chunk_tokens: int | None = None,
  backend: attention.Choice,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[Array, caches.Cache]:
  """Returns float32 logits_BV for each prompt's next token, and the cache.

  Arguments are those of `start`.
  """
  B, S = tokens_BS.shape
  dtype = params["embed"]["table"].dtype
  cache = caches.empty(config, B, max_tokens, dtype)
  if mesh is not None:
    where = caches.shardings(cache, mesh)
    cache = jax.lax.with_sharding_constraint(cache, where)
  if chunk_tokens is not None and chunk_tokens < S:
    return prefill_chunks(
      config,
      params,
      tokens_BS,
      length_B,
      cache,
      logit_scale,
      first=0,
      chunk_tokens=chunk_tokens,
      backend=backend,
    )
  x_BSM, cache = transformer.forward_cached(
    config,
    params,
    tokens_BS,
    cache,
    from_empty=True,
    kept_B=length_B,
    logit_scale=for_queries(logit_scale, tokens_BS),
    backend=backend,
  )
  last_B1M = jnp.take_along_axis(x_BSM, length_B[:, None, None] - 1, axis=1)
  # Slots after a row's end hold padding, which its new tokens overwrite.
  return transformer.unembed(config, params, last_B1M)[:, 0], cache


def prefill_chunks(
  config: ModelConfig,
  params: transformer.Params,
  tokens_BS: Array,
  length_B: Array,
  cache: caches.Cache,
  logit_scale: Array,
  *,
  first: int,
  chunk_tokens: int,
  backend: attention.Choice,
) -> tuple[Array, caches.Cache]:
  """Returns the same as `prefill`, in chunks, after the first tokens.

  Args:
    cache: of the first tokens of all rows.
    first: how many tokens are in the cache.
    chunk_tokens: divides S - `first`.
    config, params, tokens_BS, length_B, logit_scale, backend: see `start`.
  """
  B, S = tokens_BS.shape
  assert (S - first) % chunk_tokens == 0
  scale = for_queries(logit_scale, tokens_BS[:, :chunk_tokens])

  def unread(state):
    start, *_ = state
    return start < length_B.max()

  def read(state):
    start, last_BM, cache = state
    tokens_Bc = jax.lax.dynamic_slice_in_dim(
      tokens_BS, start, chunk_tokens, axis=1
    )
    x_BcM, cache = transformer.forward_cached(
      config,
      params,
      tokens_Bc,
      cache,
      kept_B=jnp.clip(length_B - start, 0, chunk_tokens),
      logit_scale=scale,
      backend=backend,
    )
    index_B = length_B - 1 - start
    here_B1 = ((index_B >= 0) & (index_B < chunk_tokens))[:, None]
    at_B11 = jnp.clip(index_B, 0, chunk_tokens - 1)[:, None, None]
    found_BM = jnp.take_along_axis(x_BcM, at_B11, axis=1)[:, 0]
    return start + chunk_tokens, jnp.where(here_B1, found_BM, last_BM), cache

  nothing_BM = jnp.zeros((B, config.width), params["embed"]["table"].dtype)
  _, last_BM, cache = jax.lax.while_loop(
    unread, read, (jnp.int32(first), nothing_BM, cache)
  )
  return transformer.unembed(config, params, last_BM[:, None])[:, 0], cache


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
    logit_scale=for_queries(logit_scale, token_B1),
    backend=backend,
  )
  return transformer.unembed(config, params, x_B1M)[:, 0], cache


def for_queries(logit_scale: Array, tokens_BS: Array) -> Array:
  """Returns a scale for each query, from one for each row."""
  if not jnp.ndim(logit_scale):
    return logit_scale
  return jnp.broadcast_to(logit_scale[:, None], tokens_BS.shape)
