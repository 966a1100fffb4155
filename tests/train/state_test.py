"""The state's averages are means of the weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.data.pipeline import DataConfig
from drope_jax.train import optimizer, state
from drope_jax.train.phases import TrainPhase

PHASE = TrainPhase(
  name="p",
  data=DataConfig(("store",)),
  batch_size=4,
  context_tokens=4,
  optimizer=optimizer.AdamW(),
  schedule=optimizer.Constant(0.02),
  steps=4,
)


@pytest.mark.parametrize("steps", [1, 2, 1000])
@pytest.mark.parametrize("decay", [0.9, 0.999, 0.99999, 1 - 2e-7])
def test_the_average_of_what_stays_is_that(decay, steps):
  phase = dataclasses.replace(PHASE, ema_decay=decay)
  averaging, params = state.averaging(phase), {"w": jnp.ones(1)}

  def add(average, _):
    return averaging.update(params, average)[1], None

  start = averaging.init(params)
  average, _ = jax.jit(lambda: jax.lax.scan(add, start, length=steps))()
  # Beside the average, the weights of a model that has not stayed.
  other = {"average": average, "params": {"w": jnp.zeros(1)}}
  got = state.averaged(phase, other)["w"]
  # Rounding of the sum at each step, 6e-8 of it at most.
  np.testing.assert_allclose(got, 1, rtol=1e-6 + 6e-8 * steps)
