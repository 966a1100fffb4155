"""Another theta for rotary positions: a change of config, never of weights."""

import dataclasses
from typing import Any

from drope_jax.model.config import ModelConfig
from drope_jax.positional import Dynamic, LongRope, PartialRope, Scheme, rotary
from drope_jax.positional import pattern as patterns


def change_theta(
  config: ModelConfig, params: Any, theta: float
) -> tuple[ModelConfig, Any]:
  """Returns the model with another theta in every layer, and the same params.

  Not function-preserving. Raising theta and training on is the usual way to
  lengthen a context (Xiong et al. 2023, arXiv:2309.16039), and so a baseline
  for dropping.

  Args:
    config: has rotary positions in some layer.
    params: returned as they are.
    theta: for all of these layers, whatever theirs was.

  Raises:
    ValueError: no layer's positions are rotary, or theta is not above 1.
  """
  N = config.num_layers
  schemes = patterns.layer_schemes(config.positional, N)
  if not any(isinstance(scheme, rotary.Rotary) for scheme in schemes):
    raise ValueError(
      f"A theta is of rotary positions, got {config.positional}. Leave it out."
    )
  positional = patterns.of_layers(
    [_with_theta(scheme, theta) for scheme in schemes],
    patterns.layer_plan(config.positional, N).windows,
  )
  return dataclasses.replace(config, positional=positional), params


def _with_theta(scheme: Scheme, theta: float) -> Scheme:
  match scheme:
    case rotary.GeometricRotary() | LongRope():
      return dataclasses.replace(scheme, theta=theta)
    case PartialRope():
      return dataclasses.replace(scheme, rope=_with_theta(scheme.rope, theta))
    case Dynamic():
      scaling = _with_theta(scheme.scaling, theta)
      return dataclasses.replace(scheme, scaling=scaling)
  return scheme
