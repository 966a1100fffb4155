"""Scaled rotary positions to train on with: a change of config."""

import dataclasses
from typing import Any

from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, scaling
from drope_jax.positional import pattern as patterns


def scale_rotation(
  config: ModelConfig, params: Any, method: str, factor: float
) -> tuple[ModelConfig, Any]:
  """Returns the model with RoPE scaled in every layer, and the same params.

  Not function-preserving. A scaling that evaluations only read with is one that
  the weights have never met; trained on with it, it is the baseline of equal
  tokens for a drop.

  Args:
    config: has plain RoPE in some layer; its context is the trained one.
    params: returned as they are.
    method: in `scaling.METHODS`.
    factor: by which the context may grow; the same at every length.

  Raises:
    ValueError: no layer has positions, or some has others than plain RoPE.
  """
  schemes = patterns.layer_schemes(config.positional, config.num_layers)
  if all(scheme == Nope() for scheme in schemes):
    raise ValueError(
      "A scaling needs rotary positions in some layer, got "
      f"{config.positional}. Leave it out."
    )
  scaled = [
    scheme
    if scheme == Nope()
    else scaling.scaled(scheme, method, factor, config.context_tokens)
    for scheme in schemes
  ]
  positional = patterns.with_schemes(config.positional, scaled)
  return dataclasses.replace(config, positional=positional), params
