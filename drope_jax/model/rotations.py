"""Rotary frequencies as arguments of a compiled program.

One program then serves RoPE, PI, NTK, YaRN and no positions.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from drope_jax.axes import Array
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Pattern, Rope, Scheme, rotary


class Rotation(NamedTuple):
  """The rotary part of a configuration, as arrays.

  Attributes:
    frequencies_F: float32, radians per token.
    factor: q and k are each multiplied by it.
  """

  frequencies_F: Array
  factor: Array


def split(
  config: ModelConfig, positional: Scheme | Pattern
) -> tuple[ModelConfig, Rotation | None]:
  """Returns a config that all rotary schemes share, and `positional` as arrays.

  `Nope` has frequencies of 0. Positions that are not rotary, or follow the
  length, stay in the config, and there are no arrays.
  """
  F, odd = divmod(config.head_dim, 2)
  match positional:
    case Nope() if not odd:
      frequencies_F, factor = np.zeros(F, np.float32), 1.0
    case rotary.Rotary() if positional.is_fixed:
      frequencies_F = positional.frequencies(config.head_dim)
      factor = positional.attention_factor
    case _:
      return dataclasses.replace(config, positional=positional), None
  rotation = Rotation(
    jnp.asarray(frequencies_F), jnp.asarray(factor, jnp.float32)
  )
  return dataclasses.replace(config, positional=Rope()), rotation


def join(config: ModelConfig, rotation: Rotation | None) -> ModelConfig:
  """Returns a config with these positions; inverts `split`."""
  if rotation is None:
    return config
  return dataclasses.replace(config, positional=rotary.Given(*rotation))
