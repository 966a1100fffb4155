"""The model before a surgery as the teacher of the model after it."""

import dataclasses
import math

import jax.numpy as jnp

from drope_jax.axes import Array


@dataclasses.dataclass(frozen=True)
class Teacher:
  """Distillation from the base, the model before the run's first surgery.

  The base reads each batch too, and the model learns the base's distribution of
  every next token. So the text need not be what the base was trained on.

  Attributes:
    weight: of KL(base || model) in the objective, above 0 and at most 1. The
      cross-entropy of the text has the weight 1 - weight.
    outputs_weight: of `distance` between the outputs of the two models' layers,
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
  """Returns the relative squared distance of a model's layers to its teacher's.

  It is `|output - taught|^2 / |taught|^2` of each token and layer, averaged
  over layers and summed over tokens times their weights; float32.
  """
  outputs_NBSM, taught_NBSM = (
    x.astype(jnp.float32) for x in (outputs_NBSM, taught_NBSM)
  )
  apart_NBS = jnp.square(outputs_NBSM - taught_NBSM).sum(-1)
  relative_NBS = apart_NBS / jnp.square(taught_NBSM).sum(-1)
  return jnp.sum(weights_BS * relative_NBS.mean(0))
