"""How far the tokens of a sequence stay apart from layer to layer.

Without positions, layers keep what is nearly uniform so: the spread of the
hidden states, the positional bias and its gradients are all at most constants
times the spread of the embeddings, whatever the length. The constants are
measured here by drawing the embeddings together, toward their mean.

Source: arXiv:2512.12167, Theorem 3.4.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp

from drope_jax.analysis.studies import bias
from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

SHRINKS = tuple(8.0**-i for i in range(5))
"""By which the embeddings' distances to their mean are multiplied."""


@dataclasses.dataclass(frozen=True)
class Spread:
  """Of one sequence.

  Attributes:
    num_tokens: T.
    shrink: of the embeddings' distances to their mean.
    spread_L: prefix-spread of the embeddings and after each layer, N + 1
      values.
    value_N: the largest absolute A^c of a layer's heads, over the patterns of
      `bias`.
    gradient_N: the largest norm of a gradient of A^c with respect to W_Q or
      W_K.
  """

  num_tokens: int
  shrink: float
  spread_L: tuple[float, ...]
  value_N: tuple[float, ...]
  gradient_N: tuple[float, ...]

  @property
  def constants(self) -> tuple[float, float, float]:
    """C_1, C_2 and C_3 of the theorem, at least, by this sequence."""
    start, *after = self.spread_L
    return (
      max(after) / start,
      max(self.value_N) / start,
      max(self.gradient_N) / start,
    )


def measure(
  config: ModelConfig,
  params: transformer.Params,
  tokens_S: Array,
  *,
  lengths: Sequence[int],
  shrinks: Sequence[float] = SHRINKS,
) -> list[Spread]:
  """Returns the spread of the first tokens of a sequence, shrunk by each.

  Args:
    config, params: of the model.
    tokens_S: int32. Its embeddings' mean is what they are drawn to.
    lengths: how many of the first tokens are read, each at least 2.
    shrinks: see `Spread.shrink`.
  """
  table_VM = params["embed"]["table"]
  mean_M = table_VM[tokens_S].mean(0)
  found = []
  for length in lengths:
    for shrink in shrinks:
      table = {"table": mean_M + shrink * (table_VM - mean_M)}
      drawn = params | {"embed": params["embed"] | table}
      found.append(_of(config, drawn, tokens_S[None, :length], shrink))
  return found


def prefix_spread(h_SM: Array) -> Array:
  """Returns the largest distance of a state to the mean of a prefix with it.

  It is the largest norm of mean(h_1 .. h_i) - h_j over all j <= i.
  """
  # Relative to the first, so that a small spread is no difference of large
  # numbers.
  h_SM = (h_SM - h_SM[0]).astype(jnp.float32)
  S = len(h_SM)
  mean_SM = jnp.cumsum(h_SM, axis=0) / jnp.arange(1, S + 1)[:, None]

  def of_prefix(inputs: tuple[Array, Array]) -> Array:
    query, mean_M = inputs
    squared_S = jnp.square(mean_M - h_SM).sum(-1)
    return jnp.where(jnp.arange(S) <= query, squared_S, 0.0).max()

  return jnp.sqrt(jax.lax.map(of_prefix, (jnp.arange(S), mean_SM)).max())


def _of(config, params, tokens_1S, shrink) -> Spread:
  layers: list[list[bias.LayerBias]] = [[] for _ in range(config.num_layers)]
  for row in bias.measure(config, params, tokens_1S):
    layers[row.layer].append(row)
  return Spread(
    tokens_1S.shape[1],
    shrink,
    tuple(map(float, _spreads(config, params, tokens_1S))),
    tuple(max(map(abs, _all(rows, "value_H"))) for rows in layers),
    tuple(
      max(_all(rows, "query_gradient_H", "key_gradient_H")) for rows in layers
    ),
  )


def _all(rows, *fields):
  return [x for row in rows for name in fields for x in getattr(row, name)]


@functools.partial(jax.jit, static_argnums=0)
def _spreads(config, params, tokens_1S):
  embedded_BSM, outputs_NBSM = bias.states(config, params, tokens_1S)
  return jax.lax.map(
    prefix_spread, jnp.concatenate([embedded_BSM, outputs_NBSM[:, 0]])
  )
