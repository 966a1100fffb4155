"""One compiled program for all rotary schemes of a comparison."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from drope_jax.axes import Array
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Pattern, Scheme, rotary, scaling


class Rotation(NamedTuple):
  """What of a rotary scheme reaches a program as data."""

  frequencies_F: Array
  attention_factor: Array


def split(
  config: ModelConfig, positional: Scheme | Pattern
) -> tuple[ModelConfig, Rotation | None]:
  """Returns what is compiled for, and what is data, of these positions."""
  if not isinstance(positional, rotary.Rotary) or not positional.is_fixed:
    return dataclasses.replace(config, positional=positional), None
  rotation = Rotation(
    jnp.asarray(positional.frequencies(config.head_dim)),
    jnp.float32(positional.attention_factor),
  )
  return dataclasses.replace(config, positional=Nope()), rotation


def join(config: ModelConfig, rotation: Rotation | None) -> ModelConfig:
  """Returns the config with its positions, within a program."""
  if rotation is None:
    return config
  return dataclasses.replace(config, positional=rotary.Given(*rotation))


def methods(config: ModelConfig, factor: float) -> dict[str, Scheme | Pattern]:
  """Returns the positions to read `factor` times the context with, by method.

  They are "rope", "pi", "ntk" and "yarn" of a model with plain RoPE, and
  otherwise "model".
  """
  own = config.positional
  if not isinstance(own, rotary.Rope):
    return {"model": own}
  return {
    method: scaling.scaled(own, method, factor, config.context_tokens)
    for method in ("rope", *(scaling.STRETCHES if factor > 1 else ()))
  }
