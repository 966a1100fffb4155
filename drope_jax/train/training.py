"""One training of a run: takes its steps, and saves between and after them."""

from collections.abc import Iterator, Mapping
import contextlib
import math
from typing import Any, NamedTuple

from drope_jax.axes import Array
from drope_jax.checkpoint import runs, store
from drope_jax.checkpoint.model import Model
from drope_jax.model import transformer
from drope_jax.train import held_out
from drope_jax.train import metrics as metrics_lib
from drope_jax.train import state as state_lib
from drope_jax.train.cadence import Cadence
from drope_jax.train.context import Run, Training
from drope_jax.train.heartbeat import Doing
from drope_jax.train.phases import TrainPhase
from drope_jax.train.stepping import Stepper


class Stopped(Exception):
  """A run was told to stop, has saved, and resumes from there."""


def train(run: Run, phase: TrainPhase, first: int, model: Model) -> Model:
  """Returns the model that a training makes of another.

  Args:
    run: of the phase.
    phase: the training. Steps that an earlier start saved are not taken again.
    first: the run's step at which it starts.
    model: to start from. Those of its parameters that the phase trains are
      deleted; a copy would take as much memory as they do.

  Raises:
    Stopped: `run.stopping` returned true; the step is saved.
    ValueError: too many steps in a row were skipped; or saves are damaged, or
      are of another order of phases.
  """
  training = Training.of(run, phase, first, model)
  last = training.last
  with _saves(run) as saves:
    saved = saves.latest_step() or 0
    if saved > last:
      raise ValueError(
        f"A run continues in order, got step {saved} in {run.directory}, and "
        f"no {phase.name}, which ended at step {last}. Put that folder back, "
        "or remove the steps after it."
      )
    if saved > first:
      for array in training.tuning.replaced(model.params).values():
        array.delete()
      state, manifest = _restore(training, saves)
      if saved == last:
        return Model(training.params(state), manifest)
    else:
      state = _start(training, saves, model.params)
    state, measured = _take_steps(training, state, saves)
    ended = int(state["step"])
    manifest = training.manifest_at(ended, measured)
    # Steps that an early end left out count as taken.
    state["step"] += last - ended
    params = _save(training, saves, last, state, manifest)
  return Model(params, manifest)


@contextlib.contextmanager
def _saves(run: Run) -> Iterator[runs.RunStore]:
  """Yields the run's saves, and at the end waits for the last one."""
  recipe = run.recipe
  with runs.RunStore(
    run.directory,
    recipe.keep_saves,
    recipe.keep_every_steps,
    run.tokenizer_path,
  ) as saves:
    try:
      yield saves
    finally:
      run.watchdog.move(Doing.SAVING)


def _save(training, saves, step, state, manifest) -> transformer.Params:
  """Saves a state, and returns the parameters of its checkpoint."""
  watchdog, params = training.run.watchdog, training.params(state)
  with watchdog.doing(Doing.SAVING):
    saved = state_lib.to_save(training.phase, state, params)
    saves.save(step, saved, manifest)
  watchdog.saving(step)
  return params


def _start(training, saves, params):
  """Returns the state before the first step of a training."""
  run, phase, first = training.run, training.phase, training.first
  state = state_lib.start(
    phase,
    training.config,
    run.mesh,
    params,
    first,
    run.recipe.seed,
  )
  if phase.optimizer_start == "kept":
    before = run.recipe.before(phase)
    config = store.describe(run.directory / before.name)[0].model
    abstract = state_lib.abstract(before, config, run.mesh)
    kept, _ = _read(saves, before, abstract, first)
    state["opt_state"] = state_lib.keep_moments(
      state["opt_state"], kept["opt_state"]
    )
  return state


def _restore(training, saves):
  """Returns the newest saved state of a training, and its manifest."""
  abstract = state_lib.abstract(
    training.phase, training.config, training.run.mesh
  )
  unread = training.tuning.untouched(training.base)
  return _read(saves, training.phase, abstract, unread=unread)


def _read(saves, phase, abstract, step=None, unread=None):
  """Returns a state that was saved, and its manifest.

  Where a phase trains only a part of the model, only that part is read. The
  rest is what the phase started from, and `unread` is checked to equal it.
  """
  if phase.moves_the_model:
    return saves.restore(abstract, step)
  others = {name: part for name, part in abstract.items() if name != "params"}
  state, manifest = saves.restore(
    {**others, "trained": abstract["params"]}, step, unread
  )
  return {"params": state.pop("trained"), **state}, manifest


class _Due(NamedTuple):
  """What follows a step."""

  measure: bool
  evaluate: bool
  log: bool
  save: bool
  stop: bool


def _due(training, cadence, step) -> _Due:
  """Returns what follows a step, the same in every process."""
  run, phase, last = training.run, training.phase, training.last
  is_last = step == last
  measure = phase.held_out is not None and (
    is_last or step % phase.held_out.every_steps == 0
  )
  evaluate = phase.evals is not None and (
    is_last or step % phase.evals.every_steps == 0
  )
  log = measure or evaluate or is_last or step % run.recipe.log_every_steps == 0
  stop = run.stopping(step) and not is_last
  save = (cadence.due(step, log) or stop) and not is_last
  return _Due(measure, evaluate, log, save, stop)


def _take_steps(training, state, saves):
  """Returns the state at the end of the phase, and the last measurement.

  The measurement has `tokens` where it ended the phase early. The last state is
  not saved here.
  """
  run, phase = training.run, training.phase
  recovered = phase.until_recovered or math.inf
  measure = held_out.measurement(run, phase, training.config, training.backend)
  evaluate = run.measures.get(phase.name)
  cadence = Cadence(run.recipe.save_every_steps, run.recipe.save_every_minutes)
  measured: Mapping[str, float] = {}
  with (
    metrics_lib.MetricsLog(run.directory) as log,
    Stepper(training, state) as stepper,
  ):
    while stepper.now < training.last:
      metrics = stepper.take()
      step, due = stepper.now, _due(training, cadence, stepper.now)
      if due.log or due.save:
        metrics = _taken(phase, step, metrics)
      if due.log:
        speed = stepper.meter.line() | run.goodput.line(stepper.meter.steps_s())
        measures = [measure] * due.measure + [evaluate] * due.evaluate
        measured, probed = _measure(training, stepper.state, measures)
        line = {
          "step": step,
          "phase": phase.name,
          "tokens": training.tokens_at(step),
          **metrics,
          **measured,
          **probed,
          **speed,
        }
        log.write(line)
        run.on_metrics(line)
        if measured.get("recovered", 0) >= recovered:
          tokens = (step - training.first) * phase.step_tokens
          return stepper.state, {**measured, "tokens": tokens}
        stepper.meter.restart()
      if due.save:
        with stepper.meter.paused():
          log.flush()
          manifest = training.manifest_at(step, measured if due.log else {})
          _save(training, saves, step, stepper.state, manifest)
        cadence.restart()
      if due.stop:
        raise Stopped(f"saved step {step}")
    return stepper.state, measured


def _measure(training, state, measures):
  """Returns the model's metrics by `measures`, and by the run's probe."""
  probe = training.run.probe
  if not measures and probe is None:
    return {}, {}
  with training.run.watchdog.doing(Doing.MEASURING):
    params = training.params(state)
    measured = {}
    for measure in measures:
      measured |= measure(params)
    probed = {} if probe is None else probe(training.config, params)
  return measured, probed


def _taken(
  phase: TrainPhase, step: int, metrics: Mapping[str, Array]
) -> dict[str, Any]:
  """Returns a step's metrics as numbers.

  Raises:
    ValueError: too many steps in a row were skipped.
  """
  found = {name: float(value) for name, value in metrics.items()}
  limit = phase.guard.max_skips_in_a_row
  if found["skips_in_a_row"] >= limit:
    raise ValueError(
      f"{phase.name}: fewer than {limit} steps in a row may be skipped, got "
      f"{found['skips_in_a_row']:.0f} up to step {step}, where the loss is "
      f"{found['loss']:.4g} and the gradient norm {found['grad_norm']:.4g} "
      f"({found['skipped']:.0f} skipped in all). Lower the schedule's peak, "
      "add QK norm, or raise Guard.max_ratio; earlier steps are kept."
    )
  return found
