"""Takes the steps of a training: reads, computes, traces and times them."""

import jax

from drope_jax import sharding
from drope_jax.axes import Array
from drope_jax.perf import flops
from drope_jax.train import batches as batches_lib
from drope_jax.train import meter as meters
from drope_jax.train import profile
from drope_jax.train import step as steps
from drope_jax.train.context import Training
from drope_jax.train.heartbeat import Doing
from drope_jax.train.state import State


class Stepper:
  """Takes one step after another; a context manager.

  Attributes:
    state: after the last step.
    now: the run's step of `state`.
    meter: of the steps.
  """

  def __init__(self, training: Training, state: State):
    """Prepares to take steps.

    Args:
      training: whose steps are taken.
      state: to start from; it is donated to the first step.
    """
    run, phase = training.run, training.phase
    self.state, self.now = state, int(state["step"])
    self._training, self._started = training, self.now
    teacher, self._teacher_params = _teacher(training)
    self._take = steps.jitted(
      training.config,
      phase,
      run.recipe.learning_rate(phase),
      training.backend,
      run.mesh,
      teacher,
      run.recipe.compiler_options,
    )
    # Reading continues where the model's history ended, so that no later phase,
    # and no run from its checkpoint, reads the same sequences again.
    read = training.model.tokens // phase.context_tokens
    read += (self.now - training.first) * phase.batch_size
    self._batches = batches_lib.training(
      run.recipe, phase, run.mesh, run.base_dir, read
    )
    work = flops.of_token(
      training.config,
      phase.context_tokens,
      **training.tuning.weights(training.model.params),
      teacher=teacher and teacher[0],
    )
    self.meter = meters.Meter(work, phase.step_tokens, run.mesh.devices)
    self._profiler = profile.Profiler(run.directory, run.recipe.profile_steps)

  def take(self) -> dict[str, Array]:
    """Takes the next step, and returns its metrics."""
    run = self._training.run
    with self.meter.waiting(), run.watchdog.doing(Doing.READING):
      batch = sharding.put_batch(run.mesh, next(self._batches))
    arguments = (batch, self._training.base, self._teacher_params)
    is_first = self.now == self._started
    if run.recipe.dump_xla and is_first:
      lowered = self._take.lower(self.state, *arguments)
      folder = run.directory / profile.DUMPS / self._training.phase.name
      profile.dump(lowered, folder)
    self.now += 1
    self._profiler.before(self.now)
    run.watchdog.step(self.now, compiles=is_first)
    with jax.profiler.StepTraceAnnotation("train", step_num=self.now):
      self.state, metrics = self._take(self.state, *arguments)
      self.meter.start_step(metrics)
    if self._profiler.ends(self.now):
      with self.meter.paused(), run.watchdog.doing(Doing.MEASURING):
        self._profiler.write()
    return metrics

  def __enter__(self) -> "Stepper":
    return self

  def __exit__(self, *_) -> None:
    self._profiler.write()


def _teacher(training):
  """Returns a phase's teacher as (config, backend) and params, or two None."""
  run, phase = training.run, training.phase
  if phase.teacher is None:
    return None, None
  base = run.base(phase.compute_dtype)
  config = phase.config_of(base.config)
  return (config, run.backend(phase, config)), base.params
