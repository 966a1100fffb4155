"""Log-probabilities of sequences, as a pure function."""

import functools

import jax
import jax.numpy as jnp

from drope_jax import attention
from drope_jax.axes import Array
from drope_jax.inference import decode
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

# Tokens, over all rows, for which logits are held at a time.
SCORE_CHUNK = 512


@functools.partial(jax.jit, static_argnames=("config", "backend"))
def score(
  config: ModelConfig,
  positions: decode.Positions | None,
  params: transformer.Params,
  tokens_BS: Array,
  logit_scale: Array,
  backend: attention.Choice,
) -> tuple[Array, Array]:
  """Returns log p(token i + 1 | tokens up to i) in nats, scores_BS, and top_BS.

  `top_BS` says whether no token had a larger logit than token i + 1. The last
  column has no next token: it is 0 and False. Logits are held for `SCORE_CHUNK`
  tokens at a time. Arguments are as of `decode.start`.
  """
  config = decode.with_positions(config, positions)
  B, S = tokens_BS.shape
  x_BSM = transformer.hidden(
    config,
    params,
    tokens_BS,
    logit_scale=decode.for_queries(logit_scale, tokens_BS),
    backend=backend,
  )
  next_BS = jnp.pad(tokens_BS[:, 1:], ((0, 0), (0, 1)))

  def score_chunk(chunk):
    x_BcM, next_Bc = chunk
    logits_BcV = transformer.unembed(config, params, x_BcM)
    log_p_BcV = jax.nn.log_softmax(logits_BcV)
    log_p_Bc = jnp.take_along_axis(log_p_BcV, next_Bc[..., None], -1)[..., 0]
    return log_p_Bc, log_p_Bc >= log_p_BcV.max(axis=-1)

  chunk = min(max(SCORE_CHUNK // B, 1), S)
  padding = -S % chunk
  x_BSM = jnp.pad(x_BSM, ((0, 0), (0, padding), (0, 0)))
  padded_BS = jnp.pad(next_BS, ((0, 0), (0, padding)))
  found = jax.lax.map(
    score_chunk, (_chunks(x_BSM, chunk), _chunks(padded_BS, chunk))
  )
  scores_BS, top_BS = (
    jnp.moveaxis(x_nBc, 0, 1).reshape(B, -1)[:, :S] for x_nBc in found
  )
  return scores_BS.at[:, -1].set(0.0), top_BS.at[:, -1].set(False)


def _chunks(x_BS: Array, chunk: int) -> Array:
  B, S = x_BS.shape[:2]
  return jnp.moveaxis(x_BS.reshape(B, S // chunk, chunk, *x_BS.shape[2:]), 1, 0)
