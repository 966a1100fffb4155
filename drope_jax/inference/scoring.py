"""Log-probabilities of sequences, as a pure function."""

import functools

import jax
import jax.numpy as jnp

from drope_jax import attention
from drope_jax.axes import Array
from drope_jax.inference import decode
from drope_jax.model import rotations, transformer
from drope_jax.model.config import ModelConfig

# Tokens, over all rows, for which logits are held at a time.
SCORE_CHUNK = 512


@functools.partial(jax.jit, static_argnames=("config", "backend", "groups"))
def score(
  config: ModelConfig,
  rotation: rotations.Rotation | None,
  params: transformer.Params,
  tokens_BS: Array,
  next_BS: Array,
  logit_scale: Array,
  wanted_BS: Array,
  before: tuple[Array, Array] | None = None,
  *,
  backend: attention.Choice,
  groups: int = 1,
) -> tuple[Array, Array]:
  """Returns log p(next | tokens up to here) in nats, scores_BS, and top_BS.

  `top_BS` says whether no token had a larger logit than the next one. Logits
  are computed where they are wanted, for `SCORE_CHUNK` tokens at a time.

  Args:
    config, rotation, params, tokens_BS, logit_scale, backend: as of
      `decode.start`.
    next_BS: the token after each.
    wanted_BS: where its score is wanted; that of others may be anything.
    before: what B / R rows in turn begin with, and is read once: int32 ids
      [R, P], padded on the right, and their number [R]. None: nothing.
    groups: G, of rows that are on the same devices; divides B.
  """
  config = rotations.join(config, rotation)
  B, S = tokens_BS.shape
  scale = decode.for_queries(logit_scale, tokens_BS)
  if before is None:
    x_BSM = transformer.hidden(
      config, params, tokens_BS, logit_scale=scale, backend=backend
    )
  else:
    before_RP, length_R = before
    R, P = before_RP.shape
    _, cache = decode.prefill(
      config,
      params,
      before_RP,
      length_R,
      logit_scale[:: B // R],
      max_tokens=P + S,
      backend=backend,
    )
    x_BSM, _ = transformer.forward_cached(
      config,
      params,
      tokens_BS,
      cache.repeated(B // R),
      logit_scale=scale,
      backend=backend,
    )
  x_GTM, next_GT, wanted_GT = (
    x_BS.reshape(groups, -1, *x_BS.shape[2:])
    for x_BS in (x_BSM, next_BS, wanted_BS)
  )
  T = wanted_GT.shape[1]
  chunk = min(max(SCORE_CHUNK // groups, 1), T)
  # Those that are wanted first. The last chunk may have others too.
  order_GT = jnp.argsort(~wanted_GT, axis=1, stable=True)

  def score_chunk(i, x_TM, next_T, order_T, log_p_T, is_top_T):
    first = jnp.minimum(i * chunk, T - chunk)
    at_C = jax.lax.dynamic_slice_in_dim(order_T, first, chunk)
    logits_CV = transformer.unembed(config, params, x_TM[None, at_C])[0]
    log_p_CV = jax.nn.log_softmax(logits_CV)
    log_p_C = jnp.take_along_axis(log_p_CV, next_T[at_C, None], -1)[:, 0]
    is_top_C = log_p_C >= log_p_CV.max(axis=-1)
    return log_p_T.at[at_C].set(log_p_C), is_top_T.at[at_C].set(is_top_C)

  def score_chunks(i, found):
    of_group = functools.partial(score_chunk, i)
    return jax.vmap(of_group)(x_GTM, next_GT, order_GT, *found)

  nothing = jnp.zeros((groups, T), jnp.float32), jnp.zeros((groups, T), bool)
  num_chunks = -(-wanted_GT.sum(axis=1).max() // chunk)
  log_p_GT, is_top_GT = jax.lax.fori_loop(0, num_chunks, score_chunks, nothing)
  return log_p_GT.reshape(B, S), is_top_GT.reshape(B, S)
