"""The order of a head's channels: interleaved rotary pairs, or ours.

Meta's code, llama2.c, GGUF's Llamas and ERNIE 4.5 rotate channels (2i, 2i + 1)
of a head; the other families and the model here rotate (i, i + D/2). Whatever
makes q or k is permuted when it is read or written: kernels, biases, and the
gains of norms.
"""

from collections.abc import Mapping

import numpy as np

from drope_jax import parameters, trees
from drope_jax.checkpoint.formats import leaves
from drope_jax.checkpoint.formats.tensors import Tensor
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig


def to_half_split(rows: np.ndarray, head_dim: int) -> np.ndarray:
  """Returns whole heads' channels, the first axis, moved to (i, i + D/2)."""
  pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
  return pairs.swapaxes(1, 2).reshape(rows.shape)


def to_interleaved(rows: np.ndarray, head_dim: int) -> np.ndarray:
  """Returns the inverse of `to_half_split`."""
  halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
  return halves.swapaxes(1, 2).reshape(rows.shape)


def to_ours(
  tensors: dict[str, Tensor], config: ModelConfig, names: Mapping[str, str]
) -> None:
  """Puts in place of each tensor that makes q or k the one in our layout.

  Args:
    tensors: by their name.
    config: the model's.
    names: as `leaves.build` takes them.
  """
  for path in trees.flatten(transformer.param_shapes(config)):
    if not parameters.describe(path).is_rotated:
      continue
    for name in leaves.source_names(config, names, path):
      if name in tensors:
        tensors[name] = half_split(tensors[name], config.head_dim)


def half_split(tensor: Tensor, head_dim: int) -> Tensor:
  """Returns an interleaved tensor in our layout, read by whole heads."""

  def rows(start: int, stop: int) -> np.ndarray:
    first = start - start % head_dim
    last = stop + -stop % head_dim
    heads = to_half_split(tensor.rows(first, last), head_dim)
    return heads[start - first : stop - first]

  return Tensor(tensor.shape, tensor.dtype, rows)
