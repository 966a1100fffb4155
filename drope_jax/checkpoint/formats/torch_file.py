"""PyTorch's `.bin` and `.pth` files, read by rows, without PyTorch.

A zip archive: `data.pkl` describes tensors, and each storage is an entry, not
compressed. The pickle may name nothing but tensors, so that it runs no code.
"""

import collections
import io
import itertools
import math
import pathlib
import pickle
import pickletools
import struct
from typing import Any, NamedTuple
import zipfile
import zlib

import numpy as np

from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.tensors import Tensor

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"

MOST_PICKLE_BYTES = 8 * 2**20
"""Of what describes the tensors, unpacked: some 40,000 of them."""

_DAMAGED = (
  ArithmeticError,
  AttributeError,
  EOFError,
  ImportError,
  LookupError,
  MemoryError,
  RuntimeError,
  TypeError,
  ValueError,
  pickle.UnpicklingError,
  struct.error,
  zipfile.BadZipFile,
  zlib.error,
)
"""What unpacking and unpickling raise, by the bytes that they are given."""

_STORAGES = {
  "FloatStorage": tensors_lib.FLOATS["float32"],
  "HalfStorage": tensors_lib.FLOATS["float16"],
  "BFloat16Storage": tensors_lib.FLOATS["bfloat16"],
  # Of buffers.
  "BoolStorage": np.dtype(np.bool),
  "ByteStorage": np.dtype(np.uint8),
  "CharStorage": np.dtype(np.int8),
  "DoubleStorage": np.dtype(np.float64),
  "IntStorage": np.dtype(np.int32),
  "LongStorage": np.dtype(np.int64),
  "ShortStorage": np.dtype(np.int16),
}


class _Storage(NamedTuple):
  key: str
  dtype: np.dtype


class _View(NamedTuple):
  storage: _Storage
  offset: int
  shape: tuple[int, ...]


def open_file(
  path: pathlib.Path, buffers: tuple[str, ...] = ()
) -> dict[str, Tensor]:
  """Returns a file's tensors by name; none of them is read.

  Args:
    path: of the file.
    buffers: how the names of tensors end that are left out, of any dtype.

  Raises:
    ValueError: the file is truncated, of PyTorch's format before 1.6, or holds
      anything but contiguous tensors; one that is not left out is of another
      dtype than float32, float16 and bfloat16.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      offsets, views = _views(path, archive)
  except (*_DAMAGED, OSError) as error:
    if isinstance(error, OSError) and error.filename is not None:
      raise  # It cannot be opened; others seek where there is nothing.
    raise ValueError(
      f"{path} must be a dictionary of tensors saved by PyTorch 1.6 or later, "
      f"got {str(error) or type(error).__name__}. Fetch it again, or use "
      "safetensors."
    ) from error
  tensors = {}
  for name, view in views.items():
    if name.endswith(buffers):
      continue
    offset, size = offsets.get(view.storage.key, (0, 0))
    tensors_lib.require_float(
      f"{name} in {path}", view.storage.dtype.name, tensors_lib.FLOATS
    )
    tensors_lib.require_axes(f"{name} in {path}", view.shape)
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
  found = [n for n in archive.namelist() if n.endswith("/data.pkl")]
  if len(found) != 1:
    raise pickle.UnpicklingError(f"an archive with {len(found)} data.pkl")
  prefix = found[0].removesuffix(".pkl") + "/"
  with archive.open(found[0]) as file:
    pickled = file.read(MOST_PICKLE_BYTES + 1)
  views = _unpickle(pickled)
  if not isinstance(views, dict) or not all(
    isinstance(name, str) and isinstance(view, _View)
    for name, view in views.items()
  ):
    raise pickle.UnpicklingError("something other than a dictionary of tensors")
  offsets = {}
  file_bytes = path.stat().st_size
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
      if offset + entry.file_size > file_bytes:
        raise pickle.UnpicklingError(f"a file cut short of {entry.filename}")
      key = entry.filename.removeprefix(prefix)
      offsets[key] = (offset, entry.file_size)
  return offsets, dict(views)


def _unpickle(pickled: bytes) -> Any:
  """Returns what a pickle holds, in memory that its size bounds."""
  if len(pickled) > MOST_PICKLE_BYTES:
    raise pickle.UnpicklingError(f"a pickle beyond {MOST_PICKLE_BYTES} bytes")
  for opcode, argument, _ in pickletools.genops(pickled):
    # Python allots a memo up to the index that it is told.
    is_memo = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
    if is_memo and argument is not None and argument > len(pickled):
      raise pickle.UnpicklingError(f"a memo of {argument} in its pickle")
  return _Unpickler(io.BytesIO(pickled)).load()


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
      return _STORAGES[name]
    raise pickle.UnpicklingError(f"{module}.{name}, which is no tensor")

  def persistent_load(self, pid: Any) -> _Storage:
    _, dtype, key, _, _ = pid
    if not isinstance(dtype, np.dtype) or not isinstance(key, str):
      raise pickle.UnpicklingError("a storage that is none of PyTorch's")
    return _Storage(key, dtype)


def _rebuild_tensor(storage, offset, shape, stride, *_) -> _View:
  counts = (offset, *shape, *stride)
  if not isinstance(storage, _Storage) or not all(
    type(count) is int and count >= 0 for count in counts
  ):
    raise pickle.UnpicklingError("a tensor of other than a storage and sizes")
  # Of a scalar, which has no stride, this is one too many.
  steps = [*itertools.accumulate(shape[:0:-1], int.__mul__, initial=1)][::-1]
  if any(
    got != want
    for got, want, size in zip(stride, steps[: len(shape)], shape, strict=True)
    if size > 1
  ):
    raise pickle.UnpicklingError(f"a tensor with strides {tuple(stride)}")
  return _View(storage, offset, tuple(shape))


def _rebuild_parameter(view: Any, *_) -> Any:
  return view
