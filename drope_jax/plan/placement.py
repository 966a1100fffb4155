"""A TPU slice's devices, and a model's parameters on them."""

import jax
from jax.experimental import topologies

from drope_jax import sharding
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.plan.slices import Slice


def devices(target: Slice) -> list[jax.Device]:
  """Returns a slice's devices, which hold no arrays and run nothing."""
  return list(topologies.get_topology_desc(**target.topology).devices)


def params(
  config: ModelConfig, mesh: jax.sharding.Mesh, dtype: str
) -> transformer.Params:
  """Returns a model's parameters as shapes, sharded over a mesh."""
  shapes = transformer.param_shapes(config)
  where = sharding.param_shardings(mesh, shapes)
  return sharding.abstract(shapes, where, dtype)
