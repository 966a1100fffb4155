"""The transformer, from tokens to logits, in Flax NNX.

`Transformer` is the module. Outside of this package a model is a config and
its parameters, a nested dict that is the same in memory, in checkpoints and
across meshes; the functions here take the two and build the module of them.

The parameters, an on-disk format; leaves under "layers" lead with N:

  embed/table                              [V, M]
  embed/positions                          [P, M] of schemes with a table
  layers/attention_norm/gain               [N, M]
  layers/attention/q/kernel (bias)         [N, M, H*D] ([N, H*D])
  layers/attention/{k,v}/kernel (bias)     [N, M, K*D] ([N, K*D])
  layers/attention/{q,k}_norm/gain         [N, H*D], [N, K*D] joint; [N, D] head
  layers/attention/positions/NAME          [N, H, ...] of schemes that learn
  layers/attention/o/kernel (bias)         [N, H*D, M] ([N, M])
  layers/attention_post_norm/gain          [N, M]
  layers/mlp_norm/gain                     [N, M]
  layers/mlp/{gate,up}/kernel (bias)       [N, M, I] ([N, I])
  layers/mlp/down/kernel (bias)            [N, I, M] ([N, M])
  layers/mlp_post_norm/gain                [N, M]
  final_norm/gain                          [M]
  head/kernel                              [M, V], absent where tied

Norms of LayerNorms have a "bias" beside their "gain", of the same shape. What a
model does without is absent. Where its layers are of several groups,
"layers/0", "layers/1" and so on stand in place of "layers".

Rotary pairs are (i, i + D/2) within a head: the half-split layout.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple, overload

from flax import nnx
import jax
import jax.numpy as jnp

from drope_jax import softcapping, trees
from drope_jax.axes import Array
from drope_jax.model import forward_pass, layers, packed, stack
from drope_jax.model.cache import Cache
from drope_jax.model.config import ModelConfig
from drope_jax.model.forward_pass import AttentionInputs, ForwardPass
from drope_jax.model.packed import Matrix
from drope_jax.positional import Nope
from drope_jax.positional import pattern as patterns

Params = dict[str, Any]


class Adapter(NamedTuple):
  """Matrices whose product is added to kernels: [N, in, R] and [N, R, out]."""

  a: Array
  b: Array


Adapters = Mapping[str, Adapter]
"""By the path of a projection: "layers/attention/q"."""


class Transformer(nnx.Module):
  """Embedding, groups of layers, a norm and the output head."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    """Makes float32 parameters.

    Args:
      config: the model's.
      rngs: streams "params", and "layers" for the layers.
    """
    V, M = config.vocab_size, config.width
    self.embedding_scale = config.embedding_scale
    self.final_scale = config.final_logit_scale
    self.soft_cap = config.final_logit_soft_cap
    self.embed = nnx.Dict(
      table=nnx.Param(
        0.02 * jax.random.normal(rngs.params(), (V, M), jnp.float32)
      )
    )
    plan = patterns.layer_plan(config.positional, config.num_layers)
    if plan.embedder is not None:
      shape = (plan.embedder.table_tokens, M)
      self.embed.positions = nnx.Param(
        0.02 * jax.random.normal(rngs.params(), shape, jnp.float32)
      )
    keys_N = jax.random.split(rngs.layers.key[...], config.num_layers)
    stacks = [
      stack.create(config, group, keys_N[part])
      for group, part in zip(config.groups, config.group_slices, strict=True)
    ]
    if len(stacks) == 1:
      self.layers = stacks[0]
    else:
      self.layers = nnx.Dict({str(i): group for i, group in enumerate(stacks)})
    self.final_norm = layers.norm(config)
    self.head = (
      None if config.tied_embeddings else layers.Linear(M, V, rngs=rngs)
    )

  def __call__(self, tokens_BS: Array, shared: ForwardPass) -> Array:
    """Returns float32 logits_BSV over the next token."""
    x_BSM, *_ = self.hidden(tokens_BS, shared)
    return self.unembed(x_BSM)

  def hidden(
    self, tokens_BS: Array, shared: ForwardPass, cache: Cache | None = None
  ) -> tuple[Array, Cache | None, dict[str, Any]]:
    """Returns the last layer's x_BSM, the cache, and what was captured.

    Args:
      tokens_BS: int32 token ids, 0 <= id < V.
      shared: of the pass over these tokens.
      cache: what was read before; its `length_B` stays.
    """
    x_BSM = shared.join(self.embedded(tokens_BS, shared))
    captured = []
    for group, own in zip(self.stacks, shared.groups, strict=True):
      x_BSM, cache, of_group = stack.run(group, x_BSM, cache, shared, own)
      captured.append(of_group)
    if len(captured) > 1:
      captured = [jax.tree.map(lambda *x_N: jnp.concatenate(x_N), *captured)]
    return shared.split(x_BSM), cache, captured[0]

  def embedded(self, tokens_BS: Array, shared: ForwardPass) -> Array:
    """Returns what the first layer reads, x_BSM."""
    x_BSM = packed.lookup(self.embed.table.get_value(), tokens_BS)
    if self.embedding_scale != 1:
      x_BSM *= self.embedding_scale
    if shared.plan.embedder is not None:
      table_PM = self.embed.positions[...]
      added_BSM = shared.plan.embedder.embedding(table_PM, shared.pos_BS)
      x_BSM += added_BSM.astype(x_BSM.dtype)
    return x_BSM

  def unembed(self, x_BSM: Array) -> Array:
    """Returns float32 logits_BSV from the last layer's states."""
    logits_BSV = packed.product(
      *self.normed_and_kernel(x_BSM), result_dtype=jnp.float32
    )
    return softcapping.cap(logits_BSV, self.soft_cap)

  def normed_and_kernel(self, x_BSM: Array) -> tuple[Array, Matrix]:
    """Returns what logits are the product of, but for their cap.

    These are normed states, which have the logits' scale, and kernel_MV.
    """
    x_BSM = layers.scaled(self.final_norm(x_BSM), self.final_scale)
    if self.head is None:
      return x_BSM, self.embed.table.get_value().T
    return x_BSM, self.head.kernel.get_value()

  @property
  def stacks(self) -> list[layers.Layer]:
    """The stacked layers of each group, first layer first."""
    if isinstance(self.layers, layers.Layer):
      return [self.layers]
    return [self.layers[str(i)] for i in range(len(self.layers))]


def init(config: ModelConfig, key: Array) -> Params:
  """Returns float32 parameters; a pure function of `key`."""
  return nnx.to_pure_dict(nnx.state(_initial(config, key), nnx.Param))


def param_shapes(config: ModelConfig) -> Params:
  """Returns the schema for this config, as `jax.ShapeDtypeStruct` leaves."""
  return nnx.to_pure_dict(_abstract(config)[1])


def layers_of(config: ModelConfig, path: str) -> slice:
  """Returns which layers the parameter at a path under "layers" is of."""
  group = path.split(trees.SEPARATOR)[1]
  return config.group_slices[int(group) if group.isdecimal() else 0]


def forward(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  *,
  adapters: Adapters | None = None,
  **options: Any,
) -> Array:
  """Returns float32 logits_BSV over the next token; Args as of `hidden`."""
  shared = forward_pass.start(config, tokens_BS, **options)
  return _bind(config, params, adapters)(tokens_BS, shared)


@overload
def hidden(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  *,
  adapters: Adapters | None = None,
  capture: Sequence[str],
  **options: Any,
) -> tuple[Array, dict[str, Any]]: ...


@overload
def hidden(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  *,
  adapters: Adapters | None = None,
  **options: Any,
) -> Array: ...


def hidden(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  *,
  adapters: Adapters | None = None,
  capture: Sequence[str] = (),
  **options: Any,
) -> Array | tuple[Array, dict[str, Any]]:
  """Returns the last layer's states x_BSM, which `unembed` reads.

  Computes in the parameters' dtype; norms and softmax are float32.

  Args:
    config: the model's.
    params: weights in the schema above.
    tokens_BS: int32 token ids, 0 <= id < V.
    adapters: of projections.
    capture: names in `forward_pass.CAPTURES`. If there are any, a dict of
      these of every layer, leading with N, is returned too.
    options: as of `forward_pass.start`.

  Raises:
    ValueError: `params` do not fit `config`; an option is refused; the backend
      does not honor what is asked of it.
  """
  shared = forward_pass.start(config, tokens_BS, capture=capture, **options)
  model = _bind(config, params, adapters)
  x_BSM, _, captured = model.hidden(tokens_BS, shared)
  return (x_BSM, captured) if capture else x_BSM


def forward_cached(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  cache: Cache,
  **options: Any,
) -> tuple[Array, Cache]:
  """Returns hidden states x_BSM of S more tokens, and the cache with them.

  `unembed` turns the states that are wanted into logits.

  Args:
    config, params, tokens_BS: as in `hidden`.
    cache: what was read before.
    options: as of `forward_pass.start`.

  Raises:
    ValueError: as `hidden`; or positions follow the length, so that cached keys
      would be stale.
  """
  shared = forward_pass.start(config, tokens_BS, cache=cache, **options)
  x_BSM, filled, _ = _bind(config, params).hidden(tokens_BS, shared, cache)
  assert filled is not None  # It was given one.
  return x_BSM, filled._replace(length_B=filled.length_B + shared.kept_B)


def embed(config: ModelConfig, params: Params, tokens_BS: Array) -> Array:
  """Returns what the first layer reads of a sequence's tokens, x_BSM."""
  shared = forward_pass.start(config, tokens_BS)
  return _bind(config, params).embedded(tokens_BS, shared)


def unembed(config: ModelConfig, params: Params, x_BSM: Array) -> Array:
  """Returns float32 logits_BSV from the last layer's states."""
  return _bind(config, params).unembed(x_BSM)


def head(
  config: ModelConfig, params: Params, x_BSM: Array
) -> tuple[Array, Array]:
  """Returns normed states and kernel_MV, whose product is logits.

  `config.final_logit_soft_cap` is yet to be applied to the product.
  """
  x_BSM, kernel_MV = _bind(config, params).normed_and_kernel(x_BSM)
  assert isinstance(kernel_MV, Array)  # Training packs nothing.
  return x_BSM, kernel_MV.astype(x_BSM.dtype)


def qk_projections(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  backend: str = "reference",
) -> tuple[Array, Array]:
  """Returns raw q_NBSHD and k_NBSKD: biased, before QK norm and positions."""
  _, captured = hidden(
    config, params, tokens_BS, backend=backend, capture=("projections",)
  )
  return captured["projections"][:2]


def attention_inputs(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  backend: str = "reference",
) -> AttentionInputs:
  """Returns what attention is computed from in each layer; all lead with N."""
  _, captured = hidden(
    config, params, tokens_BS, backend=backend, capture=("attention_inputs",)
  )
  return captured["attention_inputs"]


def _initial(config: ModelConfig, key: Array) -> Transformer:
  params_key, layers_key = jax.random.split(key)
  rngs = nnx.Rngs(params=params_key, layers=layers_key)
  return Transformer(config, rngs=rngs)


def _abstract(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
  """Returns the module split in two, with shapes in place of parameters."""
  # Schemes that do not learn have no parameters, and may hold traced arrays.
  plan = patterns.layer_plan(config.positional, config.num_layers)
  learned = plan.learner or plan.embedder or Nope()
  config = dataclasses.replace(config, positional=learned)
  graph, state = _cached(config)
  return graph, jax.tree.map(lambda leaf: leaf, state)  # New dicts.


@functools.cache
def _cached(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
  return nnx.split(nnx.eval_shape(lambda: _initial(config, jax.random.key(0))))


def _bind(
  config: ModelConfig, params: Params, adapters: Adapters | None = None
) -> Transformer:
  """Returns the module that has these parameters, traced or not.

  Raises:
    ValueError: they do not fit the config.
  """
  graph, state = _abstract(config)
  # Many wrong trees would compute: with another number of heads, for example.
  trees.require_same_leaves(nnx.to_pure_dict(state), params, "this model")
  nnx.replace_by_pure_dict(state, params)
  model = nnx.merge(graph, state)
  for path, adapter in (adapters or {}).items():
    projection = functools.reduce(getattr, path.split(trees.SEPARATOR), model)
    projection.lora_a = nnx.LoRAParam(adapter.a)
    projection.lora_b = nnx.LoRAParam(adapter.b)
  return model
