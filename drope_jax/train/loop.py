"""Runs a recipe's phases, saving as it goes and resuming where it stopped.

A run's folder holds `recipe.json`, `metrics.jsonl`, one folder a saved step
(what it resumes from), and one model checkpoint a finished phase, by its name.
Files, clocks and progress are here; the step itself is pure (`step`).
"""

from collections.abc import Callable, Mapping
import dataclasses
import datetime
import math
import os
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils

from drope_jax import sharding
from drope_jax.attention import FlashTpu
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import revision, runs, store
from drope_jax.data import paths, pipeline, tokenizer
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns
from drope_jax.surgery import compose
from drope_jax.train import flops, preflight
from drope_jax.train import meter as meters
from drope_jax.train import metrics as metrics_lib
from drope_jax.train import step as steps
from drope_jax.train.recipe import Recipe, SurgeryPhase, TrainPhase

Listener = Callable[[Mapping[str, Any]], None]
Probe = Callable[[ModelConfig, transformer.Params], Mapping[str, float]]


class Stopped(Exception):
  """A run has saved and ended early, as it was told to; it resumes there."""


@dataclasses.dataclass(frozen=True)
class Model:
  """A model between phases, with its history."""

  params: transformer.Params
  manifest: manifests.Manifest

  @property
  def config(self) -> ModelConfig:
    return self.manifest.model

  @property
  def tokens(self) -> int:
    """Tokens of training in its whole history."""
    return self.manifest.lineage[-1].tokens if self.manifest.lineage else 0


def run(
  recipe: Recipe,
  directory: os.PathLike,
  *,
  base_dir: str | None = None,
  on_metrics: Listener = lambda line: None,
  on_model: Callable[[str, Model], None] = lambda name, model: None,
  probe: Probe = lambda config, params: {},
  stopping: Callable[[int], bool] = lambda step: False,
  from_step: int | None = None,
) -> Model:
  """Runs a recipe, or what is left of it, and returns the final model.

  Interrupted at any point, it loses at most the steps since the last save, and
  ends in the same bits as if it had not been.

  Args:
    recipe: what to do.
    directory: the run's; new, or one that this recipe began.
    base_dir: where relative paths of the recipe start.
    on_metrics: gets each line of metrics.jsonl.
    on_model: gets "start" and the model that the run starts from, then each
      finished phase's name and model; not again for what an earlier run saved.
    probe: measures the model at each line of metrics.jsonl, which it adds to.
    stopping: whether to save and end after this step; once true it stays so,
      and says the same in every process.
    from_step: a kept step to resume from; the later ones are removed.

  Raises:
    Stopped: `stopping` said so.
    ValueError: the folder is another recipe's, or was begun with other tokens
      in a store; stores, tokenizer and model do not fit each other; the loss
      is not finite; a checkpoint is damaged; `from_step` is not kept.
    FileNotFoundError: a store, tokenizer or checkpoint is missing.
  """
  directory = epath.Path(directory)
  mesh = sharding.make_mesh(recipe.mesh)
  stores = preflight.check(recipe, mesh, base_dir)
  preflight.claim(recipe, stores, directory)
  if from_step is not None:
    store.go_back(directory, from_step)
  ends = recipe.end_steps()
  saved = (store.finished_steps(directory) or [0])[-1]
  context = _Run(
    recipe,
    directory,
    mesh,
    base_dir,
    stores,
    _start_tokens(recipe, base_dir),
    on_metrics,
    probe,
    stopping,
  )
  model, done = _resume_model(context, saved)
  if not done and not saved:
    on_model("start", model)
  for index, phase in enumerate(recipe.phases):
    if index < done:
      continue
    first = ends[index - 1] if index else 0
    if isinstance(phase, SurgeryPhase):
      model = _operate(context, phase, recipe.phases[:index], model)
    else:
      model = _train(context, phase, first, model)
    _keep(context, phase, model)
    on_model(phase.name, model)
  return model


def resolve_backend(
  name: str | FlashTpu, config: ModelConfig, dtype: str, platform: str
) -> str | FlashTpu:
  """Returns the attention backend that "auto" means on a kind of device.

  On TPUs our kernel; on GPUs the library's: cuDNN, or XLA for what cuDNN does
  not do.

  Args:
    name: a backend, which stays, or "auto".
    config: the model's.
    dtype: of activations.
    platform: "cpu", "gpu" or "tpu".
  """
  if name != "auto":
    return name
  match platform:
    case "tpu":
      return "flash_tpu"
    case "gpu":
      plan = patterns.layer_plan(config.positional, config.num_layers)
      biased = plan.slopes_array(config.num_heads) is not None
      return "xla" if biased or dtype == "float32" else "cudnn"
  return "blockwise"


@dataclasses.dataclass(frozen=True)
class _Run:
  recipe: Recipe
  directory: epath.Path
  mesh: jax.sharding.Mesh
  base_dir: str | None
  stores: Mapping[str, str]
  start_tokens: int
  on_metrics: Listener
  probe: Probe
  stopping: Callable[[int], bool]

  @property
  def tokenizer_path(self):
    if self.recipe.tokenizer is not None:
      return paths.resolve(self.recipe.tokenizer, self.base_dir)
    return store.tokenizer_path(
      paths.resolve(self.recipe.init_from, self.base_dir)
    )

  def parent(self, phase: TrainPhase | SurgeryPhase) -> str | None:
    """Returns what a phase starts from, as its lineage names it."""
    index = self.recipe.phases.index(phase)
    if index == 0:
      return self.recipe.init_from
    return self.recipe.phases[index - 1].name


def _resume_model(run: _Run, saved: int) -> tuple[Model, int]:
  """Returns the model that the next phase starts from, and its index."""
  ends = run.recipe.end_steps()
  done = 0
  for index, phase in enumerate(run.recipe.phases):
    finished = store.is_finished(run.directory / phase.name)
    # A run continues where its newest step says, whatever lies beside it.
    if finished and ends[index] <= saved:
      done = index + 1
  if done:
    path = run.directory / run.recipe.phases[done - 1].name
    return _load(run, path), done
  if run.recipe.init_from is not None:
    return _load(run, paths.resolve(run.recipe.init_from, run.base_dir)), 0
  config = run.recipe.model
  shardings = sharding.param_shardings(
    run.mesh, transformer.param_shapes(config)
  )
  initialise = jax.jit(
    lambda key: transformer.init(config, key), out_shardings=shardings
  )
  tokens = tokenizer.load(run.tokenizer_path)
  manifest = manifests.Manifest(
    model=config,
    tokenizer=manifests.TokenizerRef(
      filename=epath.Path(tokens.path).name,
      fingerprint=tokens.fingerprint,
      vocab_size=tokens.vocab_size,
    ),
    lineage=(),
  )
  return Model(initialise(jax.random.key(run.recipe.seed)), manifest), 0


def _start_tokens(recipe: Recipe, base_dir: str | None) -> int:
  """Returns the tokens that were behind the model that a run starts from."""
  if recipe.init_from is None:
    return 0
  manifest, _ = store.describe(paths.resolve(recipe.init_from, base_dir))
  return manifest.lineage[-1].tokens if manifest.lineage else 0


def _load(run: _Run, path) -> Model:
  config = store.describe(path)[0].model
  shardings = sharding.param_shardings(
    run.mesh, transformer.param_shapes(config)
  )
  # Masters are float32, whatever dtype the checkpoint is kept in.
  return Model(*store.load_model(path, shardings=shardings, dtype="float32"))


def _keep(run: _Run, phase: TrainPhase | SurgeryPhase, model: Model) -> None:
  """Writes a finished phase's model, unless an earlier start did."""
  path = run.directory / phase.name
  if store.is_finished(path):
    return
  # What an interrupted save left in a bucket.
  if jax.process_index() == 0 and path.exists():
    path.rmtree()
  multihost_utils.sync_global_devices(f"room for {phase.name}")
  store.save_model(path, model.params, model.manifest, run.tokenizer_path)


def _operate(run: _Run, phase: SurgeryPhase, before, model: Model) -> Model:
  tokens_BS = None
  if phase.surgery.needs_tokens:
    data = preflight.calibration(phase, before)
    batch = next(
      pipeline.batches(
        data,
        batch_size=phase.calibration_sequences,
        context_tokens=model.config.context_tokens,
        seed=run.recipe.seed,
        base_dir=run.base_dir,
      )
    )
    tokens_BS = batch["inputs_BS"]
  config, params = compose.apply(
    phase.surgery, model.config, model.params, tokens_BS
  )
  entry = _entry(
    model.manifest, phase.name, {"surgery": phase.surgery}, run.parent(phase)
  )
  return Model(params, model.manifest.appended(entry, model=config))


def _train(run: _Run, phase: TrainPhase, first: int, model: Model) -> Model:
  last = first + phase.num_steps
  config = _phase_config(phase, model)
  backend = resolve_backend(
    run.recipe.attention, config, phase.compute_dtype, jax.default_backend()
  )

  def manifest_at(
    step: int, measured: Mapping[str, float]
  ) -> manifests.Manifest:
    arguments = {
      "phase": phase,
      "attention": backend,
      "seed": run.recipe.seed,
      "stores": {path: run.stores[path] for path in phase.data.stores},
    }
    if math.isfinite(loss := measured.get("held_out_loss", math.nan)):
      arguments[manifests.HELD_OUT_LOSS] = loss
    if "tokens" in measured:
      arguments["recovery"] = measured
    taken = step - first
    entry = _entry(
      model.manifest,
      phase.name,
      arguments,
      run.parent(phase),
      taken,
      taken * phase.step_tokens,
    )
    return model.manifest.appended(entry, model=config)

  abstract = steps.abstract_state(phase, config, run.mesh)
  with runs.RunStore(
    run.directory,
    run.recipe.keep_saves,
    run.recipe.keep_every_steps,
    run.tokenizer_path,
  ) as saves:
    saved = saves.latest_step() or 0
    if saved > last:
      raise ValueError(
        f"A run continues in order, got step {saved} in {run.directory}, and "
        f"no {phase.name}, which ended at step {last}. Put that folder back, "
        "or remove the steps after it."
      )
    if saved > first:
      state, manifest = saves.restore(abstract)
      if saved == last:
        return Model(state["params"], manifest)
    else:
      start = jax.jit(
        lambda params: steps.init_state(phase, params, first),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
      )
      state = start(model.params)
      if phase.optimizer_start == "kept":
        before = _state_before(run, phase, saves, first)
        state["opt_state"] = steps.keep_moments(
          state["opt_state"], before["opt_state"]
        )

    def save(step, state, measured) -> None:
      saves.save(step, state, manifest_at(step, measured))

    state, measured = _take_steps(
      run, phase, model, backend, first, state, save
    )
    ended = int(state["step"])
    manifest = manifest_at(ended, measured)
    # The steps that an early end left out count as behind the run.
    state["step"] += last - ended
    saves.save(last, state, manifest)
  return Model(state["params"], manifest)


def _state_before(run, phase, saves, first):
  """Returns the state in which the training before `phase` ended."""
  before = run.recipe.before(phase)
  config = store.describe(run.directory / before.name)[0].model
  abstract = steps.abstract_state(before, config, run.mesh)
  return saves.restore(abstract, first)[0]


def _take_steps(run, phase, model, backend, first, state, save):
  """Returns the state in which the phase ends, and its last measurement.

  That has `tokens`, too, where it ends the phase early. Saves on the way, not
  at the end.
  """
  recipe, last = run.recipe, first + phase.num_steps
  config = _phase_config(phase, model)
  take = steps.jitted(
    steps.make_step(
      config, phase, recipe.learning_rate(phase), backend, run.mesh
    ),
    state,
    recipe.compiler_options,
  )
  measure = _measurement(run, phase, config, backend)
  now, measured = int(state["step"]), {}
  # A model reads on where its history ended: no phase, and no run that starts
  # from another's checkpoint, sees the same order of the text again.
  read = model.tokens // phase.context_tokens
  read += (now - first) * phase.batch_size
  batches = preflight.batches(recipe, phase, run.mesh, run.base_dir, read)
  with metrics_lib.MetricsLog(run.directory, now) as log:
    meter = meters.Meter(
      flops.of_token(config, phase.context_tokens),
      phase.step_tokens,
      run.mesh.devices,
    )
    while now < last:
      with meter.waiting():
        batch = sharding.put_batch(run.mesh, next(batches))
      state, metrics = take(state, batch)
      meter.start_step(metrics)
      now += 1
      measures = phase.held_out is not None and (
        now % phase.held_out.every_steps == 0 or now == last
      )
      logs = measures or now % recipe.log_every_steps == 0 or now == last
      stops = run.stopping(now) and now < last
      saves = now % recipe.save_every_steps == 0 and now < last or stops
      if logs or saves:
        metrics = {k: float(v) for k, v in metrics.items()}
        _require_taken(phase, now, metrics)
      if logs:
        speed = meter.line()
        measured = measure(state["params"]) if measures else {}
        line = {
          "step": now,
          "phase": phase.name,
          "tokens": model.tokens
          - run.start_tokens
          + (now - first) * phase.step_tokens,
          **metrics,
          **measured,
          **run.probe(config, state["params"]),
          **speed,
        }
        log.write(line)
        run.on_metrics(line)
        if measured.get("recovered", 0) >= (phase.until_recovered or math.inf):
          tokens = (now - first) * phase.step_tokens
          return state, measured | {"tokens": tokens}
        meter.restart()
      if saves:
        save(now, state, measured if measures else {})
      if stops:
        raise Stopped(f"saved step {now}")
  return state, measured


def _measurement(run, phase, config, backend):
  """Returns a function from params to their metrics on held-out text."""
  batches = [
    sharding.put_batch(run.mesh, batch)
    for batch in preflight.held_out_batches(phase, run.mesh, run.base_dir)
  ]

  def loss(config, backend):
    evaluate = jax.jit(steps.make_evaluation(config, phase, backend, run.mesh))

    def mean(params) -> float:
      sums = [evaluate(params, batch) for batch in batches]
      nats, weight = (sum(map(float, x)) for x in zip(*sums, strict=True))
      return nats / weight

    return mean

  held_out_loss = loss(config, backend)
  if phase.until_recovered is None:
    return lambda params: {"held_out_loss": held_out_loss(params)}
  base = _base(run)
  base_config = _phase_config(phase, base)
  base_backend = resolve_backend(
    run.recipe.attention,
    base_config,
    phase.compute_dtype,
    jax.default_backend(),
  )
  base_loss = loss(base_config, base_backend)(base.params)

  def measure(params):
    found = held_out_loss(params)
    return {
      "held_out_loss": found,
      "base_loss": base_loss,
      "recovered": base_loss / found,
    }

  return measure


def _base(run: _Run) -> Model:
  if run.recipe.base is not None:
    return _load(run, run.directory / run.recipe.base.name)
  return _load(run, paths.resolve(run.recipe.init_from, run.base_dir))


def _phase_config(phase: TrainPhase, model: Model) -> ModelConfig:
  return dataclasses.replace(model.config, context_tokens=phase.context_tokens)


def _entry(manifest, operation, arguments, parent, steps_taken=0, tokens=0):
  before = manifest.lineage[-1] if manifest.lineage else None
  return manifests.LineageEntry(
    operation=operation,
    arguments=arguments,
    parent=parent,
    tokens=tokens + (before.tokens if before else 0),
    steps=steps_taken + (before.steps if before else 0),
    code=revision.describe(),
    time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  )


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
