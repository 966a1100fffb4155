"""One training of a run: takes its steps, and saves between and after them."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import math
from typing import Any

import jax

from drope_jax import sharding
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import runs, store
from drope_jax.model import transformer
from drope_jax.perf import flops
from drope_jax.train import batches as batches_lib
from drope_jax.train import held_out, profile
from drope_jax.train import meter as meters
from drope_jax.train import metrics as metrics_lib
from drope_jax.train import state as state_lib
from drope_jax.train import step as steps
from drope_jax.train import tuning as tunings
from drope_jax.train.cadence import Cadence
from drope_jax.train.context import Model, Run
from drope_jax.train.heartbeat import Doing
from drope_jax.train.phases import TrainPhase


class Stopped(Exception):
  """A run was told to stop, has saved, and resumes from there."""


@dataclasses.dataclass(frozen=True)
class _Trained:
  """What a phase trains of the model that it starts from."""

  phase: TrainPhase
  tuning: tunings.Tuning
  base: transformer.Params

  def params(self, state: state_lib.State) -> transformer.Params:
    """Returns the parameters of a checkpoint."""
    return self.tuning.model(self.base, state_lib.averaged(self.phase, state))


def train(run: Run, phase: TrainPhase, first: int, model: Model) -> Model:
  """Returns the model that a training makes of another.

  Args:
    run: of the phase.
    phase: the training. Steps that an earlier start saved are not taken again.
    first: the run's step at which it starts.
    model: to start from.

  Raises:
    Stopped: `run.stopping` returned true; the step is saved.
    ValueError: too many steps in a row were skipped; or saves are damaged, or
      are of another order of phases.
  """
  last = first + phase.num_steps
  config = model.config_in(phase)
  backend = run.backend(phase, config)

  def manifest_at(
    step: int, measured: Mapping[str, float]
  ) -> manifests.Manifest:
    arguments: dict[str, Any] = {
      "phase": phase,
      "attention": backend,
      "seed": run.recipe.seed,
      "stores": {path: run.stores[path] for path in phase.data.stores},
    }
    if phase.ema_decay is not None:
      arguments["weights"] = "averaged"
    if math.isfinite(loss := measured.get("held_out_loss", math.nan)):
      arguments[manifests.HELD_OUT_LOSS] = loss
    if "tokens" in measured:
      arguments["recovery"] = measured
    taken = step - first
    return model.manifest.after(
      phase.name,
      arguments,
      run.parent(phase),
      model=config,
      steps=taken,
      tokens=taken * phase.step_tokens,
    )

  tuning = tunings.of(phase, model.params)
  trained = _Trained(phase, tuning, tuning.base(model.params))
  with _saves(run) as saves:
    saved = saves.latest_step() or 0
    if saved > last:
      raise ValueError(
        f"A run continues in order, got step {saved} in {run.directory}, and "
        f"no {phase.name}, which ended at step {last}. Put that folder back, "
        "or remove the steps after it."
      )
    if saved > first:
      abstract = state_lib.abstract(phase, config, run.mesh)
      state, manifest = _restore(
        saves, phase, abstract, unread=tuning.untouched(trained.base)
      )
      if saved == last:
        return Model(trained.params(state), manifest)
    else:
      state = state_lib.start(
        phase, config, run.mesh, model.params, first, run.recipe.seed
      )
      if phase.optimizer_start == "kept":
        before = _state_before(run, phase, saves, first)
        state["opt_state"] = state_lib.keep_moments(
          state["opt_state"], before["opt_state"]
        )

    def save(step, state, manifest) -> transformer.Params:
      params = trained.params(state)
      with run.watchdog.doing(Doing.SAVING):
        saves.save(step, state_lib.to_save(phase, state, params), manifest)
      run.watchdog.saving(step)
      return params

    def save_midway(step, state, measured) -> None:
      save(step, state, manifest_at(step, measured))

    state, measured = _take_steps(
      run, phase, trained, model, backend, first, state, save_midway
    )
    ended = int(state["step"])
    manifest = manifest_at(ended, measured)
    # Steps that an early end left out count as taken.
    state["step"] += last - ended
    params = save(last, state, manifest)
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


def _restore(saves, phase, abstract, step=None, unread=None):
  """Returns the state that was saved, and its manifest.

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


def _state_before(run, phase, saves, first):
  """Returns the last state of the training before `phase`."""
  before = run.recipe.before(phase)
  config = store.describe(run.directory / before.name)[0].model
  abstract = state_lib.abstract(before, config, run.mesh)
  return _restore(saves, before, abstract, first)[0]


def _teacher(run, phase):
  """Returns a phase's teacher as (config, backend) and params, or two None."""
  if phase.teacher is None:
    return None, None
  base = run.base(phase.compute_dtype)
  config = base.config_in(phase)
  return (config, run.backend(phase, config)), base.params


def _meter(run, trained, model, config, teacher):
  phase = trained.phase
  work = flops.of_token(
    config,
    phase.context_tokens,
    **trained.tuning.weights(model.params),
    teacher=teacher,
  )
  return meters.Meter(work, phase.step_tokens, run.mesh.devices)


def _take_steps(run, phase, trained, model, backend, first, state, save):
  """Returns the state at the end of the phase, and the last measurement.

  The measurement has `tokens` where it ended the phase early. The last state is
  not saved here.
  """
  recipe, last = run.recipe, first + phase.num_steps
  config = model.config_in(phase)
  measure = held_out.measurement(run, phase, config, backend)
  teacher, teacher_params = _teacher(run, phase)
  take = steps.jitted(
    config,
    phase,
    recipe.learning_rate(phase),
    backend,
    run.mesh,
    teacher,
    recipe.compiler_options,
  )
  now, measured = int(state["step"]), {}
  # Reading continues where the model's history ended, so that no later phase,
  # and no run from its checkpoint, reads the same sequences again.
  read = model.tokens // phase.context_tokens
  read += (now - first) * phase.batch_size
  batches = batches_lib.training(recipe, phase, run.mesh, run.base_dir, read)
  with (
    metrics_lib.MetricsLog(run.directory) as log,
    profile.Profiler(run.directory, recipe.profile_steps) as profiler,
  ):
    meter = _meter(run, trained, model, config, teacher and teacher[0])
    cadence = Cadence(recipe.save_every_steps, recipe.save_every_minutes)
    start = now
    while now < last:
      with meter.waiting(), run.watchdog.doing(Doing.READING):
        batch = sharding.put_batch(run.mesh, next(batches))
      arguments = (batch, trained.base, teacher_params)
      if recipe.dump_xla and now == start:
        lowered = take.lower(state, *arguments)
        profile.dump(lowered, run.directory / profile.DUMPS / phase.name)
      now += 1
      profiler.before(now)
      run.watchdog.step(now, compiles=now == start + 1)
      with jax.profiler.StepTraceAnnotation("train", step_num=now):
        state, metrics = take(state, *arguments)
        meter.start_step(metrics)
      if profiler.ends(now):
        with meter.paused(), run.watchdog.doing(Doing.MEASURING):
          profiler.write()
      measures = phase.held_out is not None and (
        now % phase.held_out.every_steps == 0 or now == last
      )
      logs = measures or now % recipe.log_every_steps == 0 or now == last
      stops = run.stopping(now) and now < last
      saves = (cadence.due(now, logs) or stops) and now < last
      if logs or saves:
        metrics = {k: float(v) for k, v in metrics.items()}
        _require_taken(phase, now, metrics)
      if logs:
        speed = meter.line() | run.goodput.line(meter.steps_s())
        measured, probed = {}, {}
        if measures or run.probe is not None:
          with run.watchdog.doing(Doing.MEASURING):
            params = trained.params(state)
            measured = measure(params) if measures else {}
            probed = run.probe(config, params) if run.probe is not None else {}
        line = {
          "step": now,
          "phase": phase.name,
          "tokens": model.tokens
          - run.start_tokens
          + (now - first) * phase.step_tokens,
          **metrics,
          **measured,
          **probed,
          **speed,
        }
        log.write(line)
        run.on_metrics(line)
        if measured.get("recovered", 0) >= (phase.until_recovered or math.inf):
          tokens = (now - first) * phase.step_tokens
          return state, measured | {"tokens": tokens}
        meter.restart()
      if saves:
        with meter.paused():
          log.flush()
          save(now, state, measured if measures else {})
        cadence.restart()
      if stops:
        raise Stopped(f"saved step {now}")
  return state, measured


def _require_taken(
  phase: TrainPhase, step: int, metrics: Mapping[str, float]
) -> None:
  limit = phase.guard.max_skips_in_a_row
  if metrics["skips_in_a_row"] >= limit:
    raise ValueError(
      f"{phase.name}: fewer than {limit} steps in a row may be skipped, got "
      f"{metrics['skips_in_a_row']:.0f} up to step {step}, where the loss is "
      f"{metrics['loss']:.4g} and the gradient norm {metrics['grad_norm']:.4g} "
      f"({metrics['skipped']:.0f} skipped in all). Lower the schedule's peak, "
      "add QK norm, or raise Guard.max_ratio; earlier steps are kept."
    )
