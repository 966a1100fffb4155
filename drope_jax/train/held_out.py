"""The loss on held-out text, and the share of the base's that it recovered."""

from collections.abc import Callable
from typing import Any

import jax

from drope_jax import attention, sharding
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.train import batches as batches_lib
from drope_jax.train import step as steps
from drope_jax.train.context import Run
from drope_jax.train.phases import TrainPhase


def measurement(
  run: Run, phase: TrainPhase, config: ModelConfig, backend: attention.Choice
) -> Callable[[transformer.Params], dict[str, float]]:
  """Returns a function from params to their metrics on a phase's held-out text.

  The metrics are held_out_loss (nats a token) and, with `until_recovered`,
  base_loss and recovered = base_loss / held_out_loss.

  Args:
    run: of the phase.
    phase: a training with held-out text; else the result must not be called.
    config: of the params, with the phase's context length.
    backend: of attention.
  """
  batches = [
    sharding.put_batch(run.mesh, batch)
    for batch in batches_lib.held_out(phase, run.mesh, run.base_dir)
  ]

  def loss(config: ModelConfig, backend: Any):
    evaluate = jax.jit(steps.make_evaluation(config, phase, backend, run.mesh))

    def mean(params) -> float:
      sums = [evaluate(params, batch) for batch in batches]
      nats, weight = (sum(map(float, x)) for x in zip(*sums, strict=True))
      return nats / weight

    return mean

  held_out_loss = loss(config, backend)
  if phase.until_recovered is None:
    return lambda params: {"held_out_loss": held_out_loss(params)}
  base = run.base(phase.compute_dtype)
  base_config = phase.config_of(base.config)
  base_backend = run.backend(phase, base_config)
  base_loss = loss(base_config, base_backend)(base.params)

  def measure(params):
    found = held_out_loss(params)
    return {
      "held_out_loss": found,
      "base_loss": base_loss,
      "recovered": base_loss / found,
    }

  return measure
