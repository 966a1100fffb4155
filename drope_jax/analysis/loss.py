"""Next-token loss of sequences, with little memory."""

import jax

from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

CHUNK_TOKENS = 512
"""Tokens for which logits are held at a time."""


def of_sequences(
  config: ModelConfig, params: transformer.Params, tokens_BS: Array
) -> Array:
  """Returns loss_B, each sequence's mean, one after the other."""
  return jax.lax.map(
    lambda tokens_S: of_sequence(config, params, tokens_S), tokens_BS
  )


def of_sequence(
  config: ModelConfig, params: transformer.Params, tokens_S: Array
) -> Array:
  """Returns the mean next-token loss of tokens_S in nats per token."""
  x_BSM = transformer.hidden(
    config, params, tokens_S[None], backend="blockwise"
  )

  def one_token(inputs):
    x_M, next_token = inputs
    logits_BSV = transformer.unembed(config, params, x_M[None, None])
    return -jax.nn.log_softmax(logits_BSV[0, 0])[next_token]

  return jax.lax.map(
    one_token, (x_BSM[0, :-1], tokens_S[1:]), batch_size=CHUNK_TOKENS
  ).mean()
