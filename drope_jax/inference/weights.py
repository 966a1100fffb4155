"""How language models hold their weights."""

from collections.abc import Callable
import contextlib
from typing import Any

import jax

from drope_jax.model import packed


class OneAtATime:
  """The weights of several models, of which the last read are in memory."""

  def __init__(
    self,
    while_loading: Callable[
      [], contextlib.AbstractContextManager
    ] = contextlib.nullcontext,
  ):
    """Holds none yet; weights are read within `while_loading()`."""
    self._while_loading = while_loading
    self._load: Callable[[], Any] | None = None
    self._held: Any = None

  def of(self, load: Callable[[], Any]) -> Callable[[], Any]:
    """Returns a function that returns what `load` does, from memory if held."""

    def read() -> Any:
      if self._load is not load:
        self._load = self._held = None  # Frees them before the next are read.
        with self._while_loading():
          self._held = load()
        self._load = load
      return self._held

    return read


def holder(
  dtype: str, mesh: jax.sharding.Mesh | None
) -> Callable[[str, Any], Any]:
  """Returns what makes a parameter, given its path, as its device holds it.

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
