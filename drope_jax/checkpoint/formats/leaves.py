"""From a source's tensors to the parameter tree, matched exactly both ways.

Every format has one tensor a layer, and its matrices are [out, in], but for
GPT-2's; the tree keeps kernels [in, out], with layers stacked.
"""

from collections.abc import Mapping
import math

import numpy as np

from drope_jax import parameters, trees
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.tensors import Tensor
from drope_jax.checkpoint.streaming import Leaf, Region
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

Names = Mapping[str, str]
"""Our path to their name, in which {} is the layer's number."""

KEEP = "keep"

_PART_BYTES = 2**21
"""What is read at a time: it stays in the cache until it is copied."""

_TILE_ROWS, _TILE_COLUMNS = 16, 512


def build(
  config: ModelConfig,
  names: Names,
  tensors: Mapping[str, Tensor],
  *,
  dtype: str = KEEP,
  allow_nonfinite: bool = False,
  kernels_as_ours: bool = False,
) -> dict[str, Leaf]:
  """Returns every leaf of the tree, by path; nothing is read.

  Args:
    config: the model's.
    names: has each path of the config's tree.
    tensors: by their name.
    dtype: "float32", "bfloat16", or "keep" for the source's.
    allow_nonfinite: whether NaN and infinite weights are let through. Else
      reading one raises ValueError, with the tensor's name.
    kernels_as_ours: whether the matrices of layers are [in, out].

  Raises:
    ValueError: a tensor is missing, unexpected or of another shape.
  """
  shapes = trees.flatten(transformer.param_shapes(config))
  sources = {path: source_names(config, names, path) for path in shapes}
  _require_match(shapes, sources, tensors, kernels_as_ours)
  built = {}
  for path, shape in shapes.items():
    of_leaf = {name: tensors[name] for name in sources[path]}
    built[path] = _leaf(
      path,
      shape.shape,
      of_leaf,
      _dtype(of_leaf, dtype),
      allow_nonfinite,
      is_transposed(path, kernels_as_ours),
    )
  return built


def source_names(
  config: ModelConfig, names: Names, path: str
) -> tuple[str, ...]:
  """Returns the names of a leaf's tensors, layer by layer."""
  return layer_names(config, names[path], path)


def layer_names(config: ModelConfig, name: str, path: str) -> tuple[str, ...]:
  """Returns a tensor's name in each layer, or it alone of no layer's leaf."""
  stacked = parameters.describe(path).is_stacked
  layers = range(config.num_layers) if stacked else range(1)
  return tuple(name.format(n) for n in layers)


def source_shape(
  path: str, shape: tuple[int, ...], kernels_as_ours: bool = False
) -> tuple[int, ...]:
  """Returns the shape of a leaf's tensors at the source; Args as `build`'s."""
  shape = shape[1:] if parameters.describe(path).is_stacked else shape
  return shape[::-1] if is_transposed(path, kernels_as_ours) else shape


def is_transposed(path: str, kernels_as_ours: bool = False) -> bool:
  """Returns whether a leaf's tensors are its transposes at the source."""
  parameter = parameters.describe(path)
  as_ours = kernels_as_ours and parameter.is_stacked
  return parameter.is_matrix and not as_ours


def _require_match(shapes, sources, tensors, kernels_as_ours):
  expected = {
    name: source_shape(path, shapes[path].shape, kernels_as_ours)
    for path, names in sources.items()
    for name in names
  }
  complaints = []
  if missing := expected.keys() - tensors.keys():
    described = [f"{name} {expected[name]}" for name in missing]
    complaints.append("missing " + tensors_lib.listed(described))
  if unexpected := tensors.keys() - expected.keys():
    described = [f"{name} {tensors[name].shape}" for name in unexpected]
    complaints.append("unexpected " + tensors_lib.listed(described))
  misshapen = [
    f"{name} must be {shape}, got {tensors[name].shape}"
    for name, shape in expected.items()
    if name in tensors and tensors[name].shape != shape
  ]
  if misshapen:
    complaints.append(tensors_lib.listed(misshapen))
  if complaints:
    raise ValueError(
      "The weights must be exactly those that the configuration describes, "
      f"got {'; '.join(complaints)}. Use the configuration that the weights "
      "were saved with."
    )


def _dtype(of_leaf: Mapping[str, Tensor], wanted: str) -> np.dtype:
  if wanted != KEEP:
    return tensors_lib.FLOATS[wanted]
  return tensors_lib.common_dtype(tensor.dtype for tensor in of_leaf.values())


def _leaf(path, shape, of_leaf, dtype, allow_nonfinite, transposed) -> Leaf:
  sources = list(of_leaf.items())
  stacked = parameters.describe(path).is_stacked
  # The source's rows: our columns, where it is transposed.
  split_axis = len(shape) - 1 if transposed else int(stacked)

  def read_into(
    block: np.ndarray, name: str, tensor: Tensor, region: Region
  ) -> None:
    along = region[-1] if transposed else region[0]
    row_bytes = tensor.dtype.itemsize * math.prod(tensor.shape[1:])
    step = max(1, _PART_BYTES // row_bytes)
    for start in range(along.start, along.stop, step):
      stop = min(start + step, along.stop)
      rows = tensor.rows(start, stop).astype(dtype, copy=False)
      # After the cast, which may have made an infinity.
      if not allow_nonfinite and not tensors_lib.is_finite(rows):
        raise ValueError(
          f"Weights must be finite, got NaN or infinity in {name} as "
          f"{dtype.name}. Use another copy, or `allow_nonfinite=True`."
        )
      part = slice(start - along.start, stop - along.start)
      if transposed:
        _transpose(tensors_lib.bits(rows), tensors_lib.bits(block)[:, part])
      else:
        block[part] = rows

  def read(region: Region) -> np.ndarray:
    block = np.empty([part.stop - part.start for part in region], dtype)
    if not stacked:
      name, tensor = sources[0]
      read_into(block, name, tensor, region)
      return block
    for layer, source in zip(block, sources[region[0]], strict=True):
      name, tensor = source
      read_into(layer, name, tensor, region[1:])
    return block

  return Leaf(shape, dtype, stacked, split_axis, read)


def _transpose(array: np.ndarray, out: np.ndarray) -> None:
  """Copies the transpose of a matrix, tile by tile, to use the cache well.

  Wide tiles of few rows are twice as fast as square ones.
  """
  rows, columns = array.shape
  for i in range(0, rows, _TILE_ROWS):
    for j in range(0, columns, _TILE_COLUMNS):
      tile = array[i : i + _TILE_ROWS, j : j + _TILE_COLUMNS]
      out[j : j + _TILE_COLUMNS, i : i + _TILE_ROWS] = tile.T
