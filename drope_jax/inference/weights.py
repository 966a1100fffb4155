"""How a language model holds its weights, by the device that reads them."""

from collections.abc import Callable
from typing import Any

import jax

from drope_jax.model import packed


def holder(
  dtype: str, mesh: jax.sharding.Mesh | None
) -> Callable[[str, Any], Any]:
  """Returns what makes a parameter, given its path, as a model holds it.

  One CPU device has matrices in the form of `model.packed`; several devices, or
  an accelerator, have arrays of the dtype.

  Raises:
    ValueError: the devices cannot have the dtype.
  """
  packs = _packs(mesh)
  able = packed.DTYPES if packs else packed.DTYPES[:2]
  if dtype not in able:
    where = "a CPU" if packs else "an accelerator or a mesh"
    raise ValueError(
      f"Weights on {where} must be {' or '.join(able)}, got {dtype}. Choose "
      "one of these."
    )

  def hold(path: str, leaf: Any) -> Any:
    if isinstance(leaf, packed.Packed):
      return leaf
    return packed.pack(path, leaf, dtype) if packs else leaf.astype(dtype)

  return hold


def computed_dtype(dtype: str, mesh: jax.sharding.Mesh | None) -> str:
  """Returns the dtype of activations, for weights of a dtype."""
  return "float32" if _packs(mesh) else dtype


def device(mesh: jax.sharding.Mesh | None) -> jax.Device:
  """Returns the device of a model, or one of its mesh."""
  return jax.devices()[0] if mesh is None else mesh.devices.flat[0]


def _packs(mesh: jax.sharding.Mesh | None) -> bool:
  return mesh is None and device(mesh).platform == "cpu"
