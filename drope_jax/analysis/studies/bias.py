"""The positional bias of attention heads, and its gradients.

A head that attends to the current or the previous token has a positional bias
A^c for the weights c of that pattern (`readers.OffsetBias`). The norm of its
gradient with respect to the head's own query and key projections bounds how
fast training can form such a head.

Source: arXiv:2512.12167, section 3 and Figure 4.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax.analysis import readers
from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns

OFFSETS = (0, 1)
PATTERNS = ("current token", "previous token", "given weights")
"""Of the heads that `measure` looks for, in its order."""


@dataclasses.dataclass(frozen=True)
class LayerBias:
  """The bias of a layer's heads to one pattern; means over sequences.

  Attributes:
    pattern: in `PATTERNS`.
    layer: from 0.
    value_H: A^c.
    query_gradient_H: Frobenius norm of the gradient of a sequence's A^c with
      respect to the layer's W_Q, with the layer's input held fixed.
    key_gradient_H: with respect to W_K.
  """

  pattern: str
  layer: int
  value_H: tuple[float, ...]
  query_gradient_H: tuple[float, ...]
  key_gradient_H: tuple[float, ...]


def measure(
  config: ModelConfig,
  params: transformer.Params,
  tokens_BS: Array,
  c_SS: Array | None = None,
) -> list[LayerBias]:
  """Returns the bias to the current and the previous token, and its gradients.

  Args:
    config, params: of the model.
    tokens_BS: int32, at least two tokens a row.
    c_SS: a third pattern; its rows are centered, see `require_centered`.

  Raises:
    ValueError: a row has one token, or c_SS is not centered or of another size.
  """
  S = tokens_BS.shape[1]
  if S < 2:
    raise ValueError(
      f"A positional bias needs sequences of at least 2 tokens, got {S}. Pass "
      "longer ones."
    )
  if c_SS is not None:
    require_centered(c_SS, S)
    c_SS = jnp.asarray(c_SS, jnp.float32)
  embedded_BSM, outputs_NBSM = states(config, params, tokens_BS)
  found = []
  for layer, x_BSM in enumerate([embedded_BSM, *outputs_NBSM[:-1]]):
    each_CH = _of_layer(
      *alone(config, params, layer, x_BSM), tokens_BS.shape, c_SS
    )
    for pattern, *of_H in zip(
      PATTERNS[: len(each_CH[0])], *map(np.asarray, each_CH), strict=True
    ):
      found.append(
        LayerBias(pattern, layer, *(tuple(x_H.tolist()) for x_H in of_H))
      )
  return found


def require_centered(c_SS: Array, num_tokens: int) -> None:
  """Raises ValueError unless weights fit and each query's sum to 0."""
  c_SS = np.asarray(c_SS, np.float64)
  if c_SS.shape != (num_tokens, num_tokens):
    raise ValueError(
      "Positional weights need a row for each query and a column for each key, "
      f"{num_tokens} x {num_tokens}, got shape {c_SS.shape}. Make them for "
      "these sequences."
    )
  sum_S = np.abs(np.tril(c_SS).sum(1))
  if not sum_S.max() <= 1e-5 * max(np.abs(c_SS).max(), 1):
    raise ValueError(
      "Positional weights must sum to 0 over the keys of each query, up to its "
      f"own, got {sum_S.max():.3g} for query {sum_S.argmax()}. Subtract each "
      "row's mean."
    )


@functools.partial(jax.jit, static_argnums=0)
def states(
  config: ModelConfig, params: transformer.Params, tokens_BS: Array
) -> tuple[Array, Array]:
  """Returns the embeddings x_BSM that enter layer 0, and outputs_NBSM."""
  _, captured = transformer.hidden(
    config, params, tokens_BS, backend="blockwise", capture=("outputs",)
  )
  embedded_BSM = transformer.embed(config, params, tokens_BS)
  return embedded_BSM, captured["outputs"]


def alone(
  config: ModelConfig, params: transformer.Params, layer: int, x_BSM: Array
) -> tuple[ModelConfig, transformer.Params]:
  """Returns config and params of one layer as a model, which embeds its input.

  Token i of the model's vocabulary is row i of x_BSM, counted through the
  batch, so that the layer reads x_BSM where the tokens are 0, 1, 2 and so on.
  """
  group = next(
    g for g, part in enumerate(config.group_slices) if layer < part.stop
  )
  stack = params["layers"]
  if len(config.groups) > 1:
    stack = stack[str(group)]
  at = layer - config.group_slices[group].start
  own = jax.tree.map(lambda x_N: x_N[at : at + 1], stack)
  plan = patterns.layer_plan(config.positional, config.num_layers)
  scheme = plan.schemes[plan.scheme_N[layer]]
  if plan.learner is not None and not scheme.learns:
    attention = {k: v for k, v in own["attention"].items() if k != "positions"}
    own = own | {"attention": attention}
  kind = config.groups[group]
  # `ModelConfig.groups` has filled them in.
  assert kind.mlp_width is not None
  assert kind.norm_placement is not None and kind.mlp_activation is not None
  config = dataclasses.replace(
    config,
    num_layers=1,
    layer_groups=(),
    mlp_width=kind.mlp_width,
    norm_placement=kind.norm_placement,
    mlp_activation=kind.mlp_activation,
    positional=patterns.of_layers([scheme], plan.windows[layer : layer + 1]),
    vocab_size=x_BSM.shape[0] * x_BSM.shape[1],
    tied_embeddings=True,
    embedding_scale=1.0,
  )
  embed = {"table": x_BSM.reshape(-1, x_BSM.shape[-1])}
  if scheme.table_tokens is not None:  # The input has its positions already.
    shape = (scheme.table_tokens, x_BSM.shape[-1])
    embed["positions"] = jnp.zeros(shape, x_BSM.dtype)
  return config, {
    "embed": embed,
    "layers": own,
    "final_norm": params["final_norm"],
  }


@functools.partial(jax.jit, static_argnums=(0, 2))
def _of_layer(
  config: ModelConfig,
  params: transformer.Params,
  shape: tuple[int, int],
  c_SS: Array | None,
) -> tuple[Array, Array, Array]:
  """Returns the value, W_Q's norm and W_K's norm of each pattern and head."""
  looks: list = [readers.OffsetBias(offset) for offset in OFFSETS]
  if c_SS is not None:
    looks.append(readers.GivenBias(c_SS))
  H = config.num_heads
  tokens_BS = jnp.arange(shape[0] * shape[1]).reshape(shape)
  projections = params["layers"]["attention"]

  def of_sequence(tokens_S: Array) -> tuple[Array, Array, Array]:
    def bias_C(kernels: tuple[Array, Array]) -> Array:
      own = {
        name: projections[name] | {"kernel": kernel}
        for name, kernel in zip("qk", kernels, strict=True)
      }
      layers = params["layers"] | {"attention": projections | own}
      _, captured = transformer.hidden(
        config,
        params | {"layers": layers},
        tokens_S[None],
        capture=("weights",),
        reader=readers.Together(tuple(looks)),
      )
      return jnp.stack(captured["weights"])[:, 0, 0].reshape(-1)

    kernels = tuple(projections[name]["kernel"] for name in "qk")
    value_C, gradients = jax.vjp(bias_C, kernels)
    norms_C = jax.lax.map(
      lambda one_C: tuple(
        jnp.linalg.norm(g.astype(jnp.float32)) for g in gradients(one_C)[0]
      ),
      jnp.eye(len(looks) * H),
    )
    return value_C, *norms_C

  each_BC = jax.lax.map(of_sequence, tokens_BS)
  return tuple(x_BC.mean(0).reshape(len(looks), H) for x_BC in each_BC)
