"""Layers of one kind, stacked along N, and the scan that runs them."""

from typing import Any

from flax import nnx
import jax
from jax.experimental import layout

from drope_jax.axes import Array
from drope_jax.model import layers, remat
from drope_jax.model.cache import Cache
from drope_jax.model.config import LayerGroup, ModelConfig
from drope_jax.model.forward_pass import ForwardPass, LayerPass, PerLayer


def create(
  config: ModelConfig, group: LayerGroup, keys_N: Array
) -> layers.Layer:
  """Returns one `Layer` whose parameters lead with N, a key for each layer."""

  @nnx.vmap
  def layer(key: Array) -> layers.Layer:
    return layers.Layer(config, group, rngs=nnx.Rngs(key))

  return layer(keys_N)


def run(
  stack: layers.Layer,
  x_BSM: Array,
  cache: Cache | None,
  shared: ForwardPass,
  own: PerLayer,
) -> tuple[Array, Cache | None, dict[str, Any]]:
  """Returns the residual stream after all layers, the cache, and captures.

  Args:
    stack: as `create` returned it.
    x_BSM: the residual stream before them.
    cache: of all layers of the model.
    shared: what they share.
    own: what each has of its own.
  """
  graph, adapters_N, weights_N = nnx.split(stack, nnx.LoRAParam, ...)

  def body(carry, inputs):
    x_BSM, cache = carry
    adapters, weights, own = inputs
    if adapters:  # The other weights are frozen.
      weights = jax.tree.map(_row_major, weights)
    layer = nnx.merge(graph, adapters, weights)
    layer_pass = LayerPass(shared, own)
    x_BSM, cache = layer(x_BSM, cache, layer_pass)
    return (x_BSM, cache), layer_pass.captured

  (x_BSM, cache), captured_N = jax.lax.scan(
    remat.apply(shared.remat, body, in_loop=not shared.unroll),
    (x_BSM, cache),
    (adapters_N, weights_N, own),
    unroll=shared.unroll,
  )
  return x_BSM, cache, captured_N


def _row_major(x: Array) -> Array:
  """Returns an array that a compiled program keeps in row-major layout.

  The TPU's compiler prefers the kernels of q, k and v transposed. If no step
  changes them, it would copy those of all layers: 3 GiB for Llama-2-7B.
  """
  return layout.with_layout_constraint(x, layout.Layout(tuple(range(x.ndim))))
