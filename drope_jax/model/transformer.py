"""The model as functions of (config, params, tokens); NNX stays in here.

Parameters are a nested dict, the same in memory, in checkpoints and across
meshes. Schema version 1; leaves under "layers" lead with N:

  embed/table                              [V, M]
  layers/attention_norm/gain               [N, M]
  layers/attention/q/kernel (bias)         [N, M, H*D] ([N, H*D])
  layers/attention/{k,v}/kernel (bias)     [N, M, K*D] ([N, K*D])
  layers/attention/{q,k}_norm/gain         [N, H*D], [N, K*D] joint; [N, D] head
  layers/attention/o/kernel                [N, H*D, M]
  layers/mlp_norm/gain                     [N, M]
  layers/mlp/{gate,up}/kernel              [N, M, I]
  layers/mlp/down/kernel                   [N, I, M]
  final_norm/gain                          [M]
  head/kernel                              [M, V], absent where tied

Rotary pairs are (i, i + D/2) within a head: the half-split layout.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax.experimental import layout
import jax.numpy as jnp

from drope_jax import attention, trees
from drope_jax.axes import Array
from drope_jax.model import cache as caches
from drope_jax.model import layers
from drope_jax.model import remat as remat_policies
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns
from drope_jax.positional import rotary

SCHEMA_VERSION = 1

Params = dict[str, Any]
Adapters = Mapping[str, layers.Adapter]


class Seen(NamedTuple):
  """What a pass shows beside its states, where it is asked to.

  Attributes:
    max_logit: attention's largest logit, over all layers; no gradient passes
      through it.
    outputs_NBSM: each layer's output.
  """

  max_logit: Array | None
  outputs_NBSM: Array | None


class _Ends(nnx.Module):
  """What lies outside the layer scan: embedding, last norm, head."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    V, M = config.vocab_size, config.width
    self.embed = nnx.Dict(
      table=nnx.Param(
        0.02 * jax.random.normal(rngs.params(), (V, M), jnp.float32)
      )
    )
    self.final_norm = layers.RMSNorm(M, config.norm_eps)
    if not config.tied_embeddings:
      self.head = layers.Linear(M, V, rngs)


def init(config: ModelConfig, key: Array) -> Params:
  """Returns float32 parameters; a pure function of `key`."""
  ends_key, layers_key = jax.random.split(key)

  def one_layer(key: Array) -> Params:
    return _pure(layers.Layer(config, nnx.Rngs(key)))

  stacked = jax.vmap(one_layer)(jax.random.split(layers_key, config.num_layers))
  return _pure(_Ends(config, nnx.Rngs(ends_key))) | {"layers": stacked}


def param_shapes(config: ModelConfig) -> Params:
  """Returns the schema for this config, as `jax.ShapeDtypeStruct` leaves."""
  return jax.tree.map(lambda leaf: leaf, _param_shapes(config))  # New dicts.


@functools.cache
def _param_shapes(config: ModelConfig) -> Params:
  return jax.eval_shape(
    functools.partial(init, config), jax.eval_shape(lambda: jax.random.key(0))
  )


def forward(
  config: ModelConfig, params: Params, tokens_BS: Array, **options: Any
) -> Array:
  """Returns float32 logits_BSV over the next token; options as in `hidden`."""
  x_BSM = hidden(config, params, tokens_BS, **options)
  return unembed(config, params, x_BSM)


def hidden(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  *,
  segments_BS: Array | None = None,
  adapters: Adapters | None = None,
  logit_scale: Array | float | None = None,
  backend: str = "reference",
  remat: str = "none",
  unroll: bool = False,
  join_texts: bool = False,
  with_max_logit: bool = False,
  with_outputs: bool = False,
) -> Array | tuple[Array, Seen]:
  """Returns the last layer's states x_BSM, which `unembed` reads.

  Computes in the parameters' dtype; norms and softmax are float32.

  Args:
    config: the model's.
    params: weights in the schema above.
    tokens_BS: int32 token ids, 0 <= id < V.
    segments_BS: int32 ids; a token sees its own segment alone. None: one.
    adapters: of projections, by their paths in a layer, with [N, in, R] and
      [N, R, out].
    logit_scale: overrides `config.logit_scale`; may be traced.
    backend: the attention's, see `attention.BACKENDS`.
    remat: which activations the backward pass finds, see `remat.POLICIES`.
    unroll: whether the layers are compiled one by one, not as a loop's body.
    join_texts: whether the tokens of all texts lie on one axis but in
      attention. XLA's CPU backend else copies an operand of each weight's
      gradient, transposed; where devices share texts, it would move them.
    with_max_logit, with_outputs: whether `Seen` is returned too, with this.

  Raises:
    ValueError: `params` do not fit `config`; there is no such remat policy;
      the backend does not honour what is asked of it.
  """
  x_BSM, _, _, seen = _run_layers(
    config,
    params,
    tokens_BS,
    segments_BS=segments_BS,
    adapters=adapters,
    logit_scale=logit_scale,
    backend=backend,
    remat=remat,
    unroll=unroll,
    join_texts=join_texts,
    with_max_logit=with_max_logit,
    with_outputs=with_outputs,
  )
  return (x_BSM, seen) if with_max_logit or with_outputs else x_BSM


def forward_cached(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  cache: caches.Cache,
  *,
  from_empty: bool = False,
  logit_scale: Array | float | None = None,
  backend: str = "reference",
) -> tuple[Array, caches.Cache]:
  """Returns hidden states x_BSM of S more tokens, and the cache with them.

  Every row takes S tokens; where fewer are real, cut `length_B` afterwards.
  `unembed` turns the states that are wanted into logits.

  Args:
    config, params, tokens_BS, logit_scale, backend: as in `hidden`.
    cache: what was read before.
    from_empty: promises that nothing was (a prefill), so that tokens attend
      to each other alone and a backend may skip what they cannot see.

  Raises:
    ValueError: positions follow the length, so that cached keys would be stale.
  """
  for scheme in patterns.layer_schemes(config.positional, config.num_layers):
    if isinstance(scheme, rotary.LengthDependent):
      raise ValueError(
        "A key-value cache needs positions that do not change with length, "
        f"got {scheme}. Fix them with its at(length)."
      )
  x_BSM, cache, *_ = _run_layers(
    config,
    params,
    tokens_BS,
    cache=cache,
    from_empty=from_empty,
    logit_scale=logit_scale,
    backend=backend,
  )
  advanced_B = cache.length_B + tokens_BS.shape[1]
  return x_BSM, cache._replace(length_B=advanced_B)


def unembed(config: ModelConfig, params: Params, x_BSM: Array) -> Array:
  """Returns float32 logits_BSV from the last layer's states."""
  return jnp.einsum(
    "bsm,mv->bsv",
    *head(config, params, x_BSM),
    preferred_element_type=jnp.float32,
  )


def head(
  config: ModelConfig, params: Params, x_BSM: Array
) -> tuple[Array, Array]:
  """Returns what logits are the product of: normed states, and kernel_MV."""
  norm = _module(layers.RMSNorm, (config.width, config.norm_eps))
  x_BSM = norm(params["final_norm"])(x_BSM)
  if config.tied_embeddings:
    kernel_MV = params["embed"]["table"].T
  else:
    kernel_MV = params["head"]["kernel"]
  return x_BSM, kernel_MV.astype(x_BSM.dtype)


def qk_projections(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  backend: str = "reference",
) -> tuple[Array, Array]:
  """Returns raw q_NBSHD and k_NBSKD: biased, before QK norm and positions."""
  _, _, (q_NBSHD, k_NBSKD), _ = _run_layers(
    config,
    params,
    tokens_BS,
    backend=backend,
    collect=lambda raw, placed: (raw.q_BSHD, raw.k_BSKD),
  )
  return q_NBSHD, k_NBSKD


def attention_inputs(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  backend: str = "reference",
) -> layers.QKV:
  """Returns q_NBSHD, k_NBSKD, v_NBSKD as attention reads them."""
  _, _, qkv, _ = _run_layers(
    config,
    params,
    tokens_BS,
    backend=backend,
    collect=lambda raw, placed: placed,
  )
  return qkv


def _run_layers(
  config: ModelConfig,
  params: Params,
  tokens_BS: Array,
  *,
  segments_BS: Array | None = None,
  adapters: Adapters | None = None,
  cache: caches.Cache | None = None,
  from_empty: bool = False,
  logit_scale: Array | float | None = None,
  backend: str = "reference",
  remat: str = "none",
  unroll: bool = False,
  join_texts: bool = False,
  with_max_logit: bool = False,
  with_outputs: bool = False,
  collect: Callable[[layers.QKV, layers.QKV], Any] | None = None,
) -> tuple[Array, caches.Cache | None, Any, Seen]:
  """Returns states before the last norm, the cache, `collect`, what is seen."""
  # Many a misfit would compute: heads of another number, a head left unread.
  trees.require_same_leaves(param_shapes(config), params, "this model")
  S = tokens_BS.shape[1]
  pos_BS = jnp.arange(S)[None]
  if cache is not None and not from_empty:
    pos_BS += cache.length_B[:, None]
  plan = patterns.layer_plan(config.positional, config.num_layers)
  turns_NB2SD = plan.prepare(pos_BS, config.head_dim)
  # A cache and `collect` want keys and queries that are turned already.
  kernel_turns = (
    cache is None and collect is None and attention.rotates(backend)
  )
  if logit_scale is None:
    logit_scale = config.logit_scale
  as_layer = _module(layers.Layer, (config,))

  def joined(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:]) if join_texts else x

  def by_text(x: Array) -> Array:
    return x.reshape(*tokens_BS.shape, *x.shape[1:]) if join_texts else x

  def body(carry, layer_inputs):
    x_BSM, cache = carry
    weights, adapters, index, scheme, window, slopes_H = layer_inputs
    if adapters:  # What they adapt is frozen.
      weights = jax.tree.map(_as_it_lies, weights)
    layer = as_layer(weights)
    layer.adapt(adapters)
    raw = layer.attention.project(layer.attention_norm(x_BSM))
    raw = layers.QKV(*map(by_text, raw))
    q_BSHD, k_BSKD, v_BSKD = layer.attention.normalise(raw)
    rotation = None
    if turns_NB2SD is not None and kernel_turns:
      turns_N2SD = turns_NB2SD[:, 0]
      rotation = attention.Rotation(turns_N2SD, turns_N2SD, scheme)
    elif turns_NB2SD is not None:
      turn_B2SD = turns_NB2SD[scheme]
      q_BSHD, k_BSKD = (rotary.rotate(x, turn_B2SD) for x in (q_BSHD, k_BSKD))
    placed = read = layers.QKV(q_BSHD, k_BSKD, v_BSKD)
    offset_B = None
    if cache is not None:
      cache, k_BTKD, v_BTKD = cache.write(
        index, k_BSKD, v_BSKD, from_empty=from_empty
      )
      if not from_empty:
        read = layers.QKV(q_BSHD, k_BTKD, v_BTKD)
        offset_B = cache.length_B
    attended = attention.attend(
      *read,
      mask=attention.Mask(offset_B, window, segments_BS, segments_BS),
      logit_scale=logit_scale,
      slopes_H=slopes_H,
      rotation=rotation,
      with_stats=with_max_logit,
      backend=backend,
    )
    out_BSHD, max_logit = attended, None
    if with_max_logit:
      out_BSHD, stats = attended
      max_logit = stats.max_logit_BHS.max()
    x_BSM += layer.attention.output(joined(out_BSHD))
    x_BSM += layer.mlp(layer.mlp_norm(x_BSM))
    collected = collect and collect(raw, placed)
    shown = Seen(max_logit, by_text(x_BSM) if with_outputs else None)
    return (x_BSM, cache), (collected, shown)

  (x_BSM, cache), (collected, seen) = jax.lax.scan(
    remat_policies.apply(remat, body, in_loop=not unroll),
    (joined(params["embed"]["table"][tokens_BS]), cache),
    (
      params["layers"],
      adapters or {},
      jnp.arange(config.num_layers),
      plan.scheme_array(),
      plan.window_array(),
      plan.slopes_array(config.num_heads),
    ),
    unroll=unroll,
  )
  if with_max_logit:
    seen = seen._replace(max_logit=seen.max_logit.max())
  return by_text(x_BSM), cache, collected, seen


def _as_it_lies(x: Array) -> Array:
  """Returns an array in row-major layout, within a compiled program.

  A TPU's compiler would have the kernels of q, k and v transposed. Of weights
  that no step changes it makes one copy of all layers: 3 GiB for Llama-2-7B.
  """
  return layout.with_layout_constraint(x, layout.Layout(tuple(range(x.ndim))))


def _module(
  kind: type[nnx.Module], arguments: tuple
) -> Callable[[Params], nnx.Module]:
  """Returns a function from a plain dict of weights to the NNX module.

  Only the module's structure is built (abstractly); the weights it is called
  with are used as they are, traced or not.
  """

  def build() -> nnx.Module:
    needs_rngs = kind is not layers.RMSNorm
    return kind(*arguments, *([nnx.Rngs(0)] if needs_rngs else []))

  abstract = nnx.eval_shape(build)

  def with_weights(weights: Params) -> nnx.Module:
    graph, state = nnx.split(abstract)
    nnx.replace_by_pure_dict(state, weights)
    return nnx.merge(graph, state)

  return with_weights


def _pure(module: nnx.Module) -> Params:
  return nnx.to_pure_dict(nnx.state(module, nnx.Param))
