"""Trimming a model's vocabulary: rows of its table, columns of its head."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax.numpy as jnp

from drope_jax import parameters, trees
from drope_jax.axes import Array
from drope_jax.model.config import ModelConfig
from drope_jax.parameters import Role


def trim_vocabulary(
  config: ModelConfig, params: Any, ids: Sequence[int]
) -> tuple[ModelConfig, Any]:
  """Returns the model of these tokens alone, which are renumbered from 0.

  The logits of a kept token do not change. Its probability grows, as those of
  the others are shared out.

  Args:
    config: the model's.
    params: its weights; those of the layers are shared.
    ids: of the tokens to keep, each once.

  Raises:
    ValueError: an id is out of range, or named twice.
  """
  V = config.vocab_size
  if not ids or len({*ids}) < len(ids) or {*ids} - {*range(V)}:
    raise ValueError(
      f"A trimmed vocabulary needs different ids in 0..{V - 1}, got "
      f"{len(ids)} ids. Name tokens that the model has, each once."
    )
  kept = jnp.asarray(ids)

  def trimmed(path: str, leaf: Array) -> Array:
    match parameters.describe(path).role:
      case Role.TABLE:
        return leaf[kept]
      case Role.HEAD:
        return leaf[:, kept]
    return leaf

  config = dataclasses.replace(config, vocab_size=len(ids))
  return config, trees.map_with_path(trimmed, params)
