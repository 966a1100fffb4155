"""A teacher has a share of the objective, and may teach every layer."""

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.train import teacher
from drope_jax.train.teacher import Teacher


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight):
  with pytest.raises(ValueError, match="above 0 and at most 1, got "):
    Teacher(weight)


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_of_outputs_that_is_none_is_refused(weight):
  with pytest.raises(ValueError, match="finite and at least 0, got "):
    Teacher(outputs_weight=weight)


def test_the_distance_is_relative_and_a_mean_over_layers():
  taught_NBSM = np.array([[[[3.0, 4.0], [1.0, 0.0]]], [[[0.0, 2.0], [2, 0]]]])
  # Layer 0: 25 / 25 and 0; layer 1: 4 / 4 + 1 / 4 and 0.
  outputs_NBSM = np.array([[[[6.0, 8.0], [1.0, 0.0]]], [[[1.0, 0.0], [2, 0]]]])
  weights_BS = jnp.array([[0.5, 0.25]])
  got = teacher.distance(outputs_NBSM, taught_NBSM, weights_BS)
  assert got == pytest.approx(0.5 * (1 + 1.25) / 2)
  rounded = jnp.asarray(outputs_NBSM, jnp.bfloat16)
  assert teacher.distance(rounded, taught_NBSM, weights_BS).dtype == jnp.float32
