"""Dropping positional embeddings: a change of config, never of weights."""

import dataclasses
from typing import Any

from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Pattern
from drope_jax.positional import pattern as patterns


def drop_positional(
  config: ModelConfig, params: Any, layers: str | tuple[int, ...] = "all"
) -> tuple[ModelConfig, Any]:
  """Returns the model without positions in some layers, and the same params.

  Not function-preserving: the loss jumps, and recalibration brings it back.
  Attention windows stay: they are no embeddings.

  Args:
    config: has positions in every layer that is named, or in one of all.
    params: returned as they are.
    layers: "all" that have positions, or indices from 0; the others keep
      their schemes.

  Raises:
    ValueError: an index is out of range, named twice, or has no positions; no
      layer has any.

  Source: the DroPE paper (arXiv:2512.12167), which drops all at once.
  """
  N = config.num_layers
  schemes = list(patterns.layer_schemes(config.positional, N))
  windows = patterns.layer_plan(config.positional, N).windows
  if layers == "all":
    layers = tuple(n for n in range(N) if schemes[n] != Nope())
    if not layers:
      raise ValueError(
        f"drop_positional needs positions in one of {N} layers, got none in "
        "any. Leave out what was dropped before."
      )
  distinct = set(layers)
  if not distinct or len(distinct) < len(layers) or distinct - {*range(N)}:
    raise ValueError(
      f'drop_positional needs "all" or different layers in 0..{N - 1}, got '
      f"{layers!r}. Name layers that the model has, each once."
    )
  if bare := [n for n in layers if schemes[n] == Nope()]:
    raise ValueError(
      "drop_positional needs positions in each layer that it is to drop, got "
      f"none in {bare}. Leave out what was dropped before."
    )
  for index in layers:
    schemes[index] = Nope()
  positional = schemes[0]
  if windows or len(set(schemes)) > 1:
    positional = Pattern(tuple(schemes), windows)
  return dataclasses.replace(config, positional=positional), params
