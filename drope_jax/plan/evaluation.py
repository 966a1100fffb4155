"""What prefill and decoding at a length need of a TPU slice.

The programs are those of `inference.decode`: prefill of a prompt, and
one decoding step. Parameters are sharded as in training. There is one
sequence for each `data` and `fsdp` shard; the cache is sharded over sequences,
`context` and heads.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from drope_jax import attention, sharding, trees
from drope_jax.inference import decode
from drope_jax.model import backend as backends
from drope_jax.model import cache as caches
from drope_jax.model.config import ModelConfig
from drope_jax.perf import compiler, flops
from drope_jax.perf.collectives import Collective
from drope_jax.plan import placement, slices
from drope_jax.plan.slices import Slice
from drope_jax.train.recipe import Recipe

PROGRAMS = ("prefill", "decode")

_TEXTS = sharding.BATCH[0]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a program needs of each device, in bytes, and of the slice.

  Attributes:
    program: "prefill", of whole sequences, or "decode", of one token each.
    context_tokens: of a sequence; its cache has as many slots.
    texts: sequences at once, over all devices.
    fits: whether it compiles within `available`.
    available: of HBM.
    params, cache: the shards of a device.
    temporaries: all else; if it does not fit, what the compiler asks for.
    flops: of the whole slice, by the causal count.
    traffic: the least bytes of HBM: each weight of the `tensor` shard read
      once, and the cache written or read.
    collectives: by kind; None if it does not fit.
  """

  program: str
  context_tokens: int
  texts: int
  fits: bool
  available: int
  params: int
  cache: int
  temporaries: int
  flops: float
  traffic: int
  collectives: dict[str, Collective] | None

  @property
  def total(self) -> int:
    """Bytes of a device's HBM."""
    return self.params + self.cache + self.temporaries


def plan(
  program: str,
  recipe: Recipe,
  config: ModelConfig,
  context_tokens: int,
  target: Slice,
  dtype: str = "float32",
  compile_: compiler.Compile = compiler.compile,
) -> tuple[Plan, jax.stages.Compiled | None]:
  """Compiles a program and returns what it needs.

  Args:
    program: one of `PROGRAMS`.
    recipe: its mesh is used.
    config: the model's, at the end of the recipe.
    context_tokens: of a sequence.
    target: the slice to compile for.
    dtype: of parameters and cache.
    compile_: what compiles the program.

  Returns:
    The plan, and the compiled program or None if it does not fit.

  Raises:
    ValueError: the mesh does not divide the model or its sequences.
  """
  devices = placement.devices(target)
  mesh = sharding.make_mesh(recipe.mesh, devices)
  texts = sharding.row_shards(mesh)
  sharding.require_even_batch(mesh, texts, context_tokens)
  positional = config.positional.at(context_tokens)
  config = dataclasses.replace(config, positional=positional)
  chosen = backends.resolve("auto", config, dtype, devices[0], any_length=True)
  params = placement.params(config, mesh, dtype)
  cache = _empty_cache(config, mesh, texts, context_tokens, dtype)
  held = compiler.bytes_per_device(params)
  cached = compiler.bytes_per_device(cache)

  def array(shape, dtype, spec):
    where = jax.NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  def jitted(function, backend, donated=(), **options):
    run = functools.partial(function, config, backend=backend, **options)
    logits = jax.NamedSharding(mesh, P(_TEXTS, "tensor"))
    where = jax.tree.map(lambda leaf: leaf.sharding, cache)
    return jax.jit(run, donate_argnums=donated, out_shardings=(logits, where))

  scale = array((), jnp.float32, P())
  number_B = array((texts,), jnp.int32, P(_TEXTS))
  if program == "prefill":
    tokens_BS = array((texts, context_tokens), jnp.int32, sharding.BATCH)
    backend = attention.on_mesh(chosen, mesh, **sharding.ATTENTION)
    function = jitted(decode.prefill, backend, max_tokens=context_tokens)
    lowered = function.lower(params, tokens_BS, number_B, scale)
    work = flops.of_prefill(config, context_tokens)
  else:
    backend = backends.for_one_token(chosen)
    function = jitted(decode.extend, backend, donated=2)
    lowered = function.lower(params, number_B, cache, scale)
    work = flops.of_decoding(config, context_tokens)
  found = compile_(lowered)
  return Plan(
    program=program,
    context_tokens=context_tokens,
    texts=texts,
    fits=found.fits,
    available=slices.CHIPS[target.chip].hbm_bytes,
    params=held,
    cache=cached,
    temporaries=found.bytes - held - cached,
    flops=texts * work,
    traffic=_read(config, params) // mesh.shape["tensor"] + cached,
    collectives=found.collectives,
  ), found.compiled


def _empty_cache(config, mesh, texts, context_tokens, dtype):
  """Returns the cache as shapes with shardings."""
  empty = functools.partial(caches.empty, config, texts, context_tokens, dtype)
  shapes = jax.eval_shape(empty)
  return sharding.abstract(shapes, caches.shardings(shapes, mesh))


def _read(config, params) -> int:
  """Returns the bytes of the weights that one token reads."""
  leaves = trees.flatten(params)
  leaves.pop("embed/positions", None)
  if not config.tied_embeddings:
    del leaves["embed/table"]
  return trees.num_bytes(leaves.values())
