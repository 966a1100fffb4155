"""The mesh, and the sharding of each parameter over it.

The mesh has four axes: `data` (replicas), `fsdp` (batch; parameters are
gathered when used), `tensor` (heads, MLP width and vocabulary) and `context`
(sequence). With several TPU slices, each slice is a replica: only `data` uses
the slow network between slices. How a parameter is split follows from its axes,
as `parameters` describes them. One that is not described there is an error.
"""

import collections
from collections.abc import Mapping
import dataclasses
import math
import types
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from drope_jax import parameters, trees

AXES = ("data", "fsdp", "tensor", "context")

SPLIT_BY = types.MappingProxyType(
  {"V": "tensor", "M": "fsdp", "HD": "tensor", "KD": "tensor", "I": "tensor"}
)
"""The mesh axis that splits each axis of parameters; the others stay whole."""

BATCH = P(("data", "fsdp"), "context")
ATTENTION = types.MappingProxyType(
  {"batch": ("data", "fsdp"), "tokens": ("context",), "heads": ("tensor",)}
)
"""Mesh axes that split the batch, queries and heads of attention."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """The size of each mesh axis within a slice; -1 takes all remaining devices.

  Attributes:
    data, fsdp, tensor, context: see the module; at most one is -1.
    slices: number of TPU slices, or of GPU nodes, which JAX counts as slices.
      The mesh's `data` axis has `data` devices in each of them.
  """

  data: int = 1
  fsdp: int = -1
  tensor: int = 1
  context: int = 1
  slices: int = 1

  def __post_init__(self):
    *sizes, slices = dataclasses.astuple(self)
    if (
      sizes.count(-1) > 1
      or slices < 1
      or any(size < 1 and size != -1 for size in sizes)
    ):
      raise ValueError(
        "MeshConfig needs sizes of at least 1, or -1 for at most one axis, got "
        f"{dataclasses.asdict(self)}. Change these sizes."
      )

  def shape(self, num_devices: int) -> tuple[int, ...]:
    """Returns the mesh's shape over `num_devices`, those of all slices.

    Raises:
      ValueError: the product of the axes is not the number of devices.
    """
    *sizes, slices = dataclasses.astuple(self)
    fixed = math.prod(size for size in sizes if size != -1) * slices
    left = max(num_devices // fixed, 1)
    data, *others = (left if size == -1 else size for size in sizes)
    shape = (slices * data, *others)
    if math.prod(shape) != num_devices:
      raise ValueError(
        f"The mesh must use all {num_devices} devices, got "
        f"{dict(zip(AXES, shape, strict=True))}. Change the mesh so that the "
        f"product of its axes is {num_devices}."
      )
    return shape


PRESETS = types.MappingProxyType(
  {
    "single": MeshConfig(fsdp=1),
    "fsdp": MeshConfig(),
    "fsdp_tp": MeshConfig(tensor=4),
    "long": MeshConfig(context=4),
  }
)
"""Meshes by name; `long` is for sequences too long for one device."""


def layout(mesh: str | MeshConfig) -> MeshConfig:
  """Returns the preset with the name `mesh`; a `MeshConfig` is returned as is.

  Raises:
    ValueError: there is no preset of that name.
  """
  if isinstance(mesh, MeshConfig):
    return mesh
  if mesh not in PRESETS:
    raise ValueError(
      f"A mesh must be a MeshConfig or one of {', '.join(PRESETS)}, got "
      f"{mesh!r}. Name one of these."
    )
  return PRESETS[mesh]


def make_mesh(mesh: str | MeshConfig, devices: list | None = None) -> Mesh:
  """Returns the mesh over `devices`, by default those of all processes.

  Raises:
    ValueError: the devices have another number of slices; or the product of the
      axes is not their number; or there is no preset of that name.
  """
  config = layout(mesh)
  devices = jax.devices() if devices is None else devices
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices != config.slices:
    raise ValueError(
      f"MeshConfig.slices must be the number of TPU slices, got "
      f"{config.slices} for devices of {slices}. Set it to {slices}."
    )
  shape = config.shape(len(devices))
  if slices == 1:
    grid = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  else:
    grid = mesh_utils.create_hybrid_device_mesh(
      (shape[0] // slices, *shape[1:]),
      (slices, *[1] * (len(shape) - 1)),
      devices,
      allow_split_physical_axes=True,
    )
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def param_spec(path: str) -> P:
  """Returns the spec of the parameter at `path`, in whichever group of layers.

  Raises:
    ValueError: there is no such parameter.
  """
  parameter = parameters.describe(path)
  if parameter.is_replicated:
    return P()
  return P(*map(SPLIT_BY.get, parameter.axes))


def param_shardings(mesh: Mesh, params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a NamedSharding for each leaf of a parameter tree.

  Raises:
    ValueError: an axis of a parameter does not divide evenly over the mesh.
  """
  flat = {}
  for path, leaf in trees.flatten(params).items():
    flat[path] = NamedSharding(mesh, param_spec(path))
    _require_divisible(path, leaf.shape, flat[path])
  return trees.unflatten(flat)


def like_params(mesh: Mesh, state: Any, params: Mapping[str, Any]) -> Any:
  """Returns shardings for optimizer state: moments have their parameters'.

  A leaf has a parameter's sharding if its path ends in the parameter's path and
  its shape is the same. Scalars and vectors are replicated.

  Raises:
    ValueError: a leaf is none of these.
  """
  by_path = trees.flatten(param_shardings(mesh, params))
  shapes = {p: leaf.shape for p, leaf in trees.flatten(params).items()}

  def sharding(key_path, leaf) -> NamedSharding:
    whole = jax.tree_util.keystr(
      key_path, simple=True, separator=trees.SEPARATOR
    )
    names = whole.split(trees.SEPARATOR)
    for start in range(len(names)):
      path = trees.SEPARATOR.join(names[start:])
      if shapes.get(path) == leaf.shape:
        return by_path[path]
    if len(leaf.shape) <= 1:
      return NamedSharding(mesh, P())
    raise ValueError(
      "Optimizer state must be small or have a parameter's shape, got "
      f"{whole} of shape {leaf.shape}. Give it a sharding rule."
    )

  return jax.tree_util.tree_map_with_path(sharding, state)


def abstract(shapes: Any, shardings: Any, dtype: Any = None) -> Any:
  """Returns shapes with shardings, as `jax.ShapeDtypeStruct` leaves.

  Args:
    shapes: leaves with `shape` and `dtype`.
    shardings: of the leaves.
    dtype: of all; None: each leaf's own.
  """
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(
      leaf.shape, dtype or leaf.dtype, sharding=where
    ),
    shapes,
    shardings,
  )


def require_even_batch(
  mesh: Mesh, batch_size: int, context_tokens: int
) -> None:
  """Checks that the microbatch of all processes splits evenly over the mesh.

  Raises:
    ValueError: rows or context do not divide evenly.
  """
  shape = (batch_size, context_tokens)
  _require_divisible("a microbatch", shape, NamedSharding(mesh, BATCH))


def row_shards(mesh: Mesh | None) -> int:
  """Returns into how many parts the rows of a batch are split; None: one."""
  return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def process_part(mesh: Mesh) -> tuple[int, int]:
  """Returns the index of this process's part of the batch, and how many parts.

  Processes that share rows, because `tensor` or `context` splits them, have the
  same part.

  Raises:
    ValueError: processes hold unequal numbers of rows, or share only some.
  """
  devices = mesh.devices.reshape(row_shards(mesh), -1)
  held = collections.defaultdict(set)
  for row, sharing in enumerate(devices):
    for device in sharing:
      held[device.process_index].add(row)
  parts = sorted({tuple(sorted(rows)) for rows in held.values()})
  sizes = {len(part) for part in parts}
  if len(sizes) > 1 or sum(map(len, parts)) != len(devices):
    raise ValueError(
      "Processes must hold equal parts of a batch, got "
      f"{dict(mesh.shape)} over {len(held)} processes. Choose tensor * context "
      "to divide a process's devices, or to be a multiple of them."
    )
  return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns a batch as global arrays, from this process's part of it."""
  where, (_, parts) = NamedSharding(mesh, BATCH), process_part(mesh)
  return {
    name: jax.make_array_from_process_local_data(
      where, x_BS, (parts * x_BS.shape[0], x_BS.shape[1])
    )
    for name, x_BS in batch.items()
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
