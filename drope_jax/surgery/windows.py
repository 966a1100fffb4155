"""Attention windows in some layers: a change of config, never of weights."""

import dataclasses
from typing import Any

from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns


def set_windows(
  config: ModelConfig, params: Any, windows: tuple[tuple[int, int], ...]
) -> tuple[ModelConfig, Any]:
  """Returns the model with windows in some layers, and the same params.

  Not function-preserving. A layer that keeps its rotary positions within a
  window shorter than the trained context meets no distance that is new to it,
  however long the text.

  Args:
    config: the model's.
    params: returned as they are.
    windows: (layer, tokens) of each; tokens a query sees, itself included.
      Other layers keep the windows that they have.

  Raises:
    ValueError: a layer is out of range or named twice, or sees no token.
  """
  N = config.num_layers
  layers = [layer for layer, _ in windows]
  if len(set(layers)) < len(layers) or set(layers) - {*range(N)}:
    raise ValueError(
      f"Windows need different layers in 0..{N - 1}, got "
      f"{', '.join(map(str, layers))}. Name layers that the model has, each "
      "once."
    )
  plan = patterns.layer_plan(config.positional, N)
  by_layer = list(plan.windows or [None] * N)
  for layer, tokens in windows:
    by_layer[layer] = tokens
  schemes = patterns.layer_schemes(config.positional, N)
  positional = patterns.of_layers(schemes, by_layer)
  return dataclasses.replace(config, positional=positional), params
