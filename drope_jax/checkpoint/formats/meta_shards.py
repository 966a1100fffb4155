"""Meta's consolidated.NN.pth: a file for each rank, with its slices.

A matrix is sliced along its outputs or its inputs, by the layer that holds it;
the embedding along its width in Llama 2, and by rows in Llama 3. All else is
the same in every file. Source: github.com/facebookresearch/fairscale,
fairscale/nn/model_parallel/layers.py, as Meta's model.py uses it.
"""

from collections.abc import Sequence
import pathlib

import numpy as np

from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats import torch_file
from drope_jax.checkpoint.formats.tensors import Tensor

_EMBEDDING = "tok_embeddings.weight"
_QUERY = "layers.0.attention.wq.weight"
_SLICED_INPUTS = ("attention.wo.weight", "feed_forward.w2.weight")


def open_files(folder: pathlib.Path) -> list[dict[str, Tensor]]:
  """Returns each rank's tensors by name; none of them is read.

  Raises:
    FileNotFoundError: there is no file, or one is missing.
    ValueError: a file is damaged.
  """
  found = sorted(folder.glob("consolidated.*.pth"))
  for rank in range(max(1, len(found))):
    path = folder / f"consolidated.{rank:02}.pth"
    if path not in found:
      raise FileNotFoundError(
        f"Every rank's weights are needed, got no {path.name} in {folder}. "
        "Fetch it."
      )
  return [torch_file.open_file(path) for path in found]


def join(files: Sequence[dict[str, Tensor]], width: int) -> dict[str, Tensor]:
  """Returns whole tensors, whose slices are joined as they are read.

  Reading what must be the same in every file, and is not, raises ValueError.

  Args:
    files: each rank's tensors.
    width: the model's.

  Raises:
    ValueError: the files are not all, or do not hold slices of one size of the
      same tensors.
  """
  first = files[0]
  if _QUERY in first and width != len(files) * first[_QUERY].shape[0]:
    raise ValueError(
      f"The files' slices must make up a width of {width}, got {len(files)} "
      f"of {first[_QUERY].shape[0]} rows for {_QUERY}. Fetch all that belong "
      "together."
    )
  unshared = {name for file in files for name in file.keys() ^ first.keys()}
  if unshared:
    raise ValueError(
      "Every file must hold the same tensors, got "
      f"{tensors_lib.listed(unshared)} in some alone. Fetch the files again."
    )
  return {
    name: _join(name, [file[name] for file in files], width) for name in first
  }


def _join(name: str, slices: list[Tensor], width: int) -> Tensor:
  kinds = {(part.shape, part.dtype) for part in slices}
  if len(kinds) > 1:
    described = [f"{shape} of {dtype.name}" for shape, dtype in kinds]
    raise ValueError(
      f"The slices of {name} must be alike, got "
      f"{tensors_lib.listed(described)}. Fetch the files again."
    )
  if len(slices) == 1:
    return slices[0]
  shape = slices[0].shape
  if len(shape) == 1:
    return _same_in_all(name, slices)
  if name == _EMBEDDING:
    by_width = shape[1] < width
  else:
    by_width = name.endswith(_SLICED_INPUTS)
  return tensors_lib.joined(slices, axis=int(by_width))


def _same_in_all(name: str, copies: list[Tensor]) -> Tensor:
  def rows(start: int, stop: int) -> np.ndarray:
    first, *others = [copy.rows(start, stop) for copy in copies]
    if any(other.tobytes() != first.tobytes() for other in others):
      raise ValueError(
        f"{name} must be the same in every file, got others. Fetch the files "
        "again."
      )
    return first

  return Tensor(copies[0].shape, copies[0].dtype, rows)
