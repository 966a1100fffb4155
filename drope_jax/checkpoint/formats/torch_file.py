"""PyTorch's `.bin` and `.pth` files, read by rows, without PyTorch.

A zip archive: `data.pkl` describes tensors, and each storage is an entry, not
compressed. The pickle may name nothing but tensors, so that it runs no code.
"""

import collections
import math
import pathlib
import pickle
import struct
from typing import Any, NamedTuple
import zipfile

import numpy as np

from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.tensors import Tensor

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"

_STORAGES = {
  "FloatStorage": "float32",
  "HalfStorage": "float16",
  "BFloat16Storage": "bfloat16",
}


class _Storage(NamedTuple):
  key: str
  dtype: np.dtype


class _View(NamedTuple):
  storage: _Storage
  offset: int
  shape: tuple[int, ...]


def open_file(path: pathlib.Path) -> dict[str, Tensor]:
  """Returns a file's tensors by name; none of them is read.

  Raises:
    ValueError: the file is truncated, of PyTorch's format before 1.6, or holds
      anything but contiguous tensors of float32, float16 or bfloat16.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      offsets, views = _views(path, archive)
  except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
    raise ValueError(
      f"{path} must be a dictionary of tensors saved by PyTorch 1.6 or later, "
      f"got {error}. Fetch it again, or use safetensors."
    ) from error
  tensors = {}
  for name, view in views.items():
    offset, size = offsets[view.storage.key]
    itemsize = view.storage.dtype.itemsize
    end = (view.offset + math.prod(view.shape)) * itemsize
    if end > size:
      raise ValueError(
        f"{path} must hold all of {name}, got {size} bytes of {end}. Fetch it "
        "again."
      )
    tensors[name] = tensors_lib.in_file(
      path,
      offset + view.offset * itemsize,
      view.shape,
      view.storage.dtype,
    )
  return tensors


def _views(
  path: pathlib.Path, archive: zipfile.ZipFile
) -> tuple[dict[str, tuple[int, int]], dict[str, _View]]:
  """Returns each storage's offset and bytes, and the tensors' descriptions."""
  (pickled,) = [n for n in archive.namelist() if n.endswith("/data.pkl")] or [
    None
  ]
  if pickled is None:
    raise pickle.UnpicklingError("an archive without data.pkl")
  prefix = pickled.removesuffix(".pkl") + "/"
  with archive.open(pickled) as file:
    views = _Unpickler(file).load()
  if not isinstance(views, dict) or not all(
    isinstance(view, _View) for view in views.values()
  ):
    raise pickle.UnpicklingError("something other than a dictionary of tensors")
  offsets = {}
  with path.open("rb") as file:
    for entry in archive.infolist():
      if not entry.filename.startswith(prefix):
        continue
      if entry.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError("compressed tensors")
      # The local header's own lengths: its padding is not in the directory.
      file.seek(entry.header_offset + 26)
      name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
      offset = entry.header_offset + 30 + name_bytes + extra_bytes
      key = entry.filename.removeprefix(prefix)
      offsets[key] = (offset, entry.file_size)
  return offsets, dict(views)


class _Unpickler(pickle.Unpickler):
  """Builds descriptions of tensors; refuses every other object."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return _rebuild_tensor
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
      return _rebuild_parameter
    if module == "torch" and name in _STORAGES:
      return tensors_lib.FLOATS[_STORAGES[name]]
    raise pickle.UnpicklingError(f"{module}.{name}, which is no float tensor")

  def persistent_load(self, pid: Any) -> _Storage:
    _, dtype, key, _, _ = pid
    return _Storage(key, dtype)


def _rebuild_tensor(storage, offset, shape, stride, *_) -> _View:
  steps = np.cumprod((1, *shape[:0:-1]))[::-1]
  if any(
    got != want
    for got, want, size in zip(stride, steps, shape, strict=True)
    if size > 1
  ):
    raise pickle.UnpicklingError(f"a tensor with strides {tuple(stride)}")
  return _View(storage, offset, tuple(shape))


def _rebuild_parameter(view: _View, *_) -> _View:
  return view
