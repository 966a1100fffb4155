"""The order of a head's channels: interleaved rotary pairs, or ours.

Meta's code, llama2.c, GGUF's Llamas and ERNIE 4.5 rotate channels (2i, 2i + 1)
of a head. GPT-NeoX rotates (i, i + R/2) of the first R channels alone. The
other families and the model here rotate (i, i + D/2). Whatever makes q or k is
permuted when it is read or written: kernels, biases, and the gains of norms.
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


def interleaved(head_dim: int) -> np.ndarray:
  """Returns which channel of an interleaved head each of ours is."""
  return to_half_split(np.arange(head_dim), head_dim)


def leading(head_dim: int, pairs: int) -> np.ndarray:
  """Returns which channel each of ours is, of a head with its pairs in front.

  Args:
    head_dim: D.
    pairs: that rotate; i and i + pairs are one.
  """
  rotated = [*range(pairs), *range(head_dim // 2, head_dim // 2 + pairs)]
  others = [i for i in range(head_dim) if i not in rotated]
  order_D = np.empty(head_dim, int)
  order_D[rotated + others] = np.arange(head_dim)
  return order_D


def reordered(rows: np.ndarray, order_D: np.ndarray) -> np.ndarray:
  """Returns whole heads' channels, the first axis, by their places before."""
  heads = rows.reshape(-1, len(order_D), *rows.shape[1:])
  return heads[:, order_D].reshape(rows.shape)


def to_ours(
  tensors: dict[str, Tensor],
  config: ModelConfig,
  names: Mapping[str, str],
  order_D: np.ndarray | None = None,
) -> None:
  """Puts in place of each tensor that makes q or k the one in our layout.

  Args:
    tensors: by their name.
    config: the model's.
    names: as `leaves.build` takes them.
    order_D: which of its channels each of ours is; None: `interleaved`.
  """
  if order_D is None:
    order_D = interleaved(config.head_dim)
  for path in trees.flatten(transformer.param_shapes(config)):
    if not parameters.describe(path).is_rotated:
      continue
    for name in leaves.source_names(config, names, path):
      if name in tensors:
        tensors[name] = in_order(tensors[name], order_D)


def in_order(tensor: Tensor, order_D: np.ndarray) -> Tensor:
  """Returns a tensor with its heads `reordered`, read by whole heads."""
  head_dim = len(order_D)

  def rows(start: int, stop: int) -> np.ndarray:
    first = start - start % head_dim
    last = stop + -stop % head_dim
    heads = reordered(tensor.rows(first, last), order_D)
    return heads[start - first : stop - first]

  return Tensor(tensor.shape, tensor.dtype, rows)
