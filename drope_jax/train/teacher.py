"""The model before the surgery as teacher of the model after it."""

import dataclasses
import math

import jax.numpy as jnp

from drope_jax.axes import Array


@dataclasses.dataclass(frozen=True)
class Teacher:
  """Targets from the run's base: the same weights under their old positions.

  The base is the model before the run's first surgery. It reads each batch
  beside the model that is trained, which learns the base's distribution of
  every next token. The text need not be what the base was trained on, then.

  Attributes:
    weight: of KL(base || model) in the objective, above 0 and at most 1; the
      text's cross-entropy has the rest.
    outputs_weight: of `distance` between the two models' layers' outputs,
      which is added to the objective; 0 leaves it out.

  Source: Hinton et al. (arXiv:1503.02531), at a temperature of 1; outputs of
    layers: Jiao et al. (arXiv:1909.10351).
  """

  weight: float = 1.0
  outputs_weight: float = 0.0

  def __post_init__(self):
    if not 0 < self.weight <= 1:
      raise ValueError(
        "Teacher.weight is a share of the objective, above 0 and at most 1, "
        f"got {self.weight}. Change it, or leave TrainPhase.teacher out."
      )
    if not 0 <= self.outputs_weight < math.inf:
      raise ValueError(
        "Teacher.outputs_weight must be finite and at least 0, got "
        f"{self.outputs_weight}. Change it, or leave it out."
      )


def distance(
  outputs_NBSM: Array, taught_NBSM: Array, weights_BS: Array
) -> Array:
  """Returns how far a model's layers are from its teacher's.

  The squared distance over the square of the teacher's output, a mean over
  layers, and a sum over tokens times their weights; float32.
  """
  outputs_NBSM, taught_NBSM = (
    x.astype(jnp.float32) for x in (outputs_NBSM, taught_NBSM)
  )
  apart_NBS = jnp.square(outputs_NBSM - taught_NBSM).sum(-1)
  relative_NBS = apart_NBS / jnp.square(taught_NBSM).sum(-1)
  return jnp.sum(weights_BS * relative_NBS.mean(0))
