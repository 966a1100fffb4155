"""The mesh, and which axis of each parameter it splits.

Four mesh axes: `data` (replicas), `fsdp` (batch, with parameters gathered when
used), `tensor` (heads, MLP width and vocabulary), `context` (sequence). Rules
are an ordered table from a parameter's path to its PartitionSpec, without a
catch-all: a parameter that no rule knows is an error, not a silent replica.
"""

from collections.abc import Mapping
import dataclasses
import math
import re
import types
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from drope_jax import trees

AXES = ("data", "fsdp", "tensor", "context")

PARAM_RULES: tuple[tuple[str, P], ...] = (
  (r"embed/table", P("tensor", "fsdp")),
  (r"layers/attention/[qkv]/kernel", P(None, "fsdp", "tensor")),
  (r"layers/attention/[qkv]/bias", P(None, "tensor")),
  (r"layers/attention/[qk]_norm/gain", P()),
  (r"layers/attention/o/kernel", P(None, "tensor", "fsdp")),
  (r"layers/mlp/(gate|up)/kernel", P(None, "fsdp", "tensor")),
  (r"layers/mlp/down/kernel", P(None, "tensor", "fsdp")),
  (r"(layers/attention|layers/mlp|final)_norm/gain", P()),
  (r"head/kernel", P("fsdp", "tensor")),
)

BATCH = P(("data", "fsdp"), "context")
ATTENTION = types.MappingProxyType(
  {"batch": ("data", "fsdp"), "tokens": ("context",), "heads": ("tensor",)}
)
"""What splits attention's texts, queries and heads."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How many ways each mesh axis splits; None takes the devices left over.

  Attributes:
    data, fsdp, tensor, context: see the module; at most one is None.
  """

  data: int | None = 1
  fsdp: int | None = None
  tensor: int | None = 1
  context: int | None = 1

  def __post_init__(self):
    sizes = [getattr(self, axis) for axis in AXES]
    if sizes.count(None) > 1 or any(s is not None and s < 1 for s in sizes):
      raise ValueError(
        "MeshConfig needs axes of at least 1, one of them None at most, got "
        f"{dict(zip(AXES, sizes, strict=True))}. Fix all but one."
      )

  def shape(self, num_devices: int) -> tuple[int, ...]:
    """Returns the mesh's shape over `num_devices`.

    Raises:
      ValueError: the axes do not multiply to the number of devices.
    """
    sizes = [getattr(self, axis) for axis in AXES]
    fixed = math.prod(size for size in sizes if size is not None)
    shape = tuple(size or max(num_devices // fixed, 1) for size in sizes)
    if math.prod(shape) != num_devices:
      raise ValueError(
        f"The mesh must use all {num_devices} devices, got "
        f"{dict(zip(AXES, shape, strict=True))}. Change MeshConfig so that "
        "its axes multiply to them."
      )
    return shape


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
  """Returns the mesh over `devices`, by default all of every process."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh(
    config.shape(len(devices)),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices,
  )


def param_spec(path: str) -> P:
  """Returns the spec of the parameter at `path`.

  Raises:
    ValueError: no rule, or more than one, matches.
  """
  matches = [s for rule, s in PARAM_RULES if re.fullmatch(rule, path)]
  if len(matches) != 1:
    raise ValueError(
      f"A parameter must match exactly one sharding rule, got {len(matches)} "
      f"for {path}. Mend sharding.PARAM_RULES."
    )
  return matches[0]


def param_shardings(mesh: Mesh, params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a NamedSharding for each leaf of a parameter tree.

  Raises:
    ValueError: an axis of a parameter is not divisible by its mesh axes.
  """
  flat = {}
  for path, leaf in trees.flatten(params).items():
    flat[path] = NamedSharding(mesh, param_spec(path))
    _require_divisible(path, leaf.shape, flat[path])
  return trees.unflatten(flat)


def like_params(mesh: Mesh, state: Any, params: Mapping[str, Any]) -> Any:
  """Returns shardings for optimizer state: moments lie as their parameters.

  A leaf whose path ends in a parameter's path, and has its shape, takes the
  parameter's sharding; counters and coefficient vectors are replicated.

  Raises:
    ValueError: a leaf is neither.
  """
  by_path = trees.flatten(param_shardings(mesh, params))
  shapes = {p: leaf.shape for p, leaf in trees.flatten(params).items()}

  def sharding(key_path, leaf) -> NamedSharding:
    names = [str(getattr(k, "key", getattr(k, "name", k))) for k in key_path]
    for start in range(len(names)):
      path = trees.SEPARATOR.join(names[start:])
      if shapes.get(path) == leaf.shape:
        return by_path[path]
    if len(leaf.shape) <= 1:
      return NamedSharding(mesh, P())
    raise ValueError(
      "Optimizer state must be small or shaped like parameters, got "
      f"{'/'.join(names)} of shape {leaf.shape}. Give it a sharding rule."
    )

  return jax.tree_util.tree_map_with_path(sharding, state)


def require_even_batch(
  mesh: Mesh, batch_size: int, context_tokens: int
) -> None:
  """Checks that a microbatch, over all processes, splits evenly over the mesh.

  Raises:
    ValueError: rows or context do not divide.
  """
  shape = (batch_size, context_tokens)
  _require_divisible("a microbatch", shape, NamedSharding(mesh, BATCH))


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns this process's rows of a batch as parts of global arrays."""
  sharding = NamedSharding(mesh, BATCH)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def _require_divisible(
  path: str, shape: tuple[int, ...], sharding: NamedSharding
) -> None:
  try:
    sharding.shard_shape(shape)
  except ValueError as error:
    raise ValueError(
      f"Every array must split evenly over the mesh, got {path} of shape "
      f"{shape} for {sharding.spec} on {dict(sharding.mesh.shape)}. Change "
      "MeshConfig."
    ) from error
