"""Another theta for rotary positions: a change of config, never of weights."""

import dataclasses
from typing import Any

from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  Dynamic,
  Fope,
  LogScaled,
  LongRope,
  PartialRope,
  Scheme,
  rotary,
)
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
    ValueError: no layer's positions are rotary, or theta is not finite and
      above 1.
  """
  schemes = patterns.layer_schemes(config.positional, config.num_layers)
  changed = [_with_theta(scheme, theta) for scheme in schemes]
  if not any(changed):
    raise ValueError(
      "A new theta needs rotary positions in some layer, got "
      f"{config.positional}. Leave it out."
    )
  positional = patterns.with_schemes(
    config.positional,
    [new or old for new, old in zip(changed, schemes, strict=True)],
  )
  return dataclasses.replace(config, positional=positional), params


def _with_theta(scheme: Scheme, theta: float) -> Scheme | None:
  """Returns the scheme with another theta; None where it has none."""
  match scheme:
    case rotary.GeometricRotary() | LongRope() | Fope():
      return dataclasses.replace(scheme, theta=theta)
    case PartialRope():
      rope = dataclasses.replace(scheme.rope, theta=theta)
      return dataclasses.replace(scheme, rope=rope)
    case Dynamic():
      scaling = dataclasses.replace(scheme.scaling, theta=theta)
      return dataclasses.replace(scheme, scaling=scaling)
    case LogScaled():
      within = _with_theta(scheme.scheme, theta)
      return within and dataclasses.replace(scheme, scheme=within)
  return None
