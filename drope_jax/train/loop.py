"""Runs the phases of a recipe, and resumes a run that was interrupted.

A run's folder holds `recipe.json`, `metrics.jsonl`, `heartbeats`, a folder for
each saved step, and a model checkpoint of each finished phase, under its name.
During the run no other process may write there (`data.lock`). Files and clocks
are used here and in `training`; the step itself is pure (`step`).
"""

from collections.abc import Callable, Iterator
import contextlib
import os

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from drope_jax import sharding
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store
from drope_jax.checkpoint.model import Model
from drope_jax.data import lock, paths, tokenizer
from drope_jax.model import transformer
from drope_jax.surgery import compose
from drope_jax.train import batches, claim, context, preflight, training
from drope_jax.train.context import Evaluator, Listener, Probe, Run
from drope_jax.train.goodput import Goodput
from drope_jax.train.heartbeat import Doing
from drope_jax.train.phases import SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe
from drope_jax.train.watchdog import OnStall, Watchdog


def run(
  recipe: Recipe,
  directory: os.PathLike,
  *,
  base_dir: str | None = None,
  on_metrics: Listener = lambda line: None,
  on_model: Callable[[str, Model], None] = lambda name, model: None,
  probe: Probe | None = None,
  evaluator: Evaluator | None = None,
  stopping: Callable[[int], bool] = lambda step: False,
  on_stall: OnStall = lambda told, too_long: None,
  from_step: int | None = None,
) -> Model:
  """Runs a recipe, or what is left of it, and returns the final model.

  A run that is interrupted loses at most the steps since its last save, and
  ends in the same bits as one that is not.

  Args:
    recipe: what to run.
    directory: of the run: new, or begun by this recipe.
    base_dir: where relative paths of stores and of the tokenizer start.
    on_metrics: gets each line of metrics.jsonl.
    on_model: gets "start" and the initial model, then the name and model of
      each phase as it ends, except phases that an earlier start finished. The
      next training deletes the parameters.
    probe: measures the model for each line of metrics.jsonl.
    evaluator: evaluates the model for a phase with `evals`.
    stopping: whether to save and end after this step. Once true it must stay
      true, and it must be the same in every process.
    on_stall: called in a thread when no step has ended for as long as
      `Recipe.stall_minutes` allows.
    from_step: a kept step to resume from; later ones are removed.

  Raises:
    training.Stopped: `stopping` returned true.
    ValueError: the folder belongs to another recipe, was begun with other
      tokens in a store, or has another writer; stores, tokenizer and model do
      not match; too many steps in a row were skipped; a checkpoint is damaged;
      `from_step` is not kept.
    FileNotFoundError: a store, tokenizer or checkpoint is missing.
  """
  directory = paths.output(directory)
  mesh = sharding.make_mesh(recipe.mesh)
  checked = preflight.check(recipe, mesh, base_dir, evaluator)
  with _only_writer(directory) as require_held:
    claim.folder(recipe, checked.stores, directory)
    if from_step is not None:
      store.go_back(directory, from_step)
      _remove_models_after(recipe, from_step, directory)
    saved = (store.finished_steps(directory) or [0])[-1]

    def stopping_if_held(step: int) -> bool:
      require_held()
      return stopping(step)

    goodput = Goodput(directory, saved)
    with Watchdog(
      directory, recipe, goodput.begun, saved, on_stall
    ) as watchdog:
      started = Run(
        recipe,
        directory,
        mesh,
        base_dir,
        checked.stores,
        _start_tokens(recipe),
        goodput,
        watchdog,
        on_metrics,
        probe,
        checked.measures,
        stopping_if_held,
      )
      return _take_phases(started, saved, on_model)


@contextlib.contextmanager
def _only_writer(directory: epath.Path) -> Iterator[Callable[[], None]]:
  """Locks the folder for all processes of the run, in the first of them."""
  with contextlib.ExitStack() as stack:
    require_held, refused = (lambda: None), None
    # On CPUs the first collective times out after half a minute, and the first
    # process may wait longer than that for the lock.
    multihost_utils.sync_global_devices("all are here")
    if jax.process_index() == 0:
      try:
        require_held = stack.enter_context(lock.held(directory))
      except (OSError, ValueError) as error:
        refused = error
    reason = np.zeros(1024, np.uint8)
    said = str(refused or "").encode()[: reason.size]
    reason[: len(said)] = [*said]
    said = bytes(multihost_utils.broadcast_one_to_all(reason)).rstrip(b"\0")
    if refused is not None:
      raise refused
    if said:
      raise ValueError(said.decode(errors="replace"))
    yield require_held


def _remove_models_after(
  recipe: Recipe, step: int, directory: epath.Path
) -> None:
  """Removes the models of phases that end after a step."""
  if jax.process_index() == 0:
    for phase, end in zip(recipe.phases, recipe.end_steps(), strict=True):
      if end > step and (path := directory / phase.name).exists():
        path.rmtree()
  multihost_utils.sync_global_devices(f"removed models after {step}")


def _take_phases(
  run: Run, saved: int, on_model: Callable[[str, Model], None]
) -> Model:
  """Returns the model after the last phase; saves the model of each phase."""
  recipe, ends = run.recipe, run.recipe.end_steps()
  model, done = _resume_model(run, saved)
  if not done and not saved:
    on_model("start", model)
  for index, phase in enumerate(recipe.phases):
    if index < done:
      continue
    first = ends[index - 1] if index else 0
    run.watchdog.prepare(phase.name)
    if isinstance(phase, SurgeryPhase):
      model = _operate(run, phase, model)
    else:
      model = training.train(run, phase, first, model)
    with run.watchdog.doing(Doing.SAVING):
      _keep(run, phase, model)
    on_model(phase.name, model)
    ended, more = ends[index], index + 1 < len(ends)
    if more and ended and run.stopping(ended):
      raise training.Stopped(f"saved step {ended}")
  return model


def _resume_model(run: Run, saved: int) -> tuple[Model, int]:
  """Returns the model that the next phase starts from, and its index."""
  ends = run.recipe.end_steps()
  done = 0
  for index, phase in enumerate(run.recipe.phases):
    finished = store.is_finished(run.directory / phase.name)
    # The newest saved step decides where a run continues.
    if finished and ends[index] <= saved:
      done = index + 1
  if done:
    path = run.directory / run.recipe.phases[done - 1].name
    return run.load(path), done
  if run.recipe.init_from is not None:
    return run.initial(), 0
  config = run.recipe.model
  assert config is not None  # A recipe has this or `init_from`.
  shardings = sharding.param_shardings(
    run.mesh, transformer.param_shapes(config)
  )
  initialize = jax.jit(
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
  return Model(initialize(jax.random.key(run.recipe.seed)), manifest), 0


def _start_tokens(recipe: Recipe) -> int:
  """Returns the tokens that the initial model was trained on."""
  lineage = context.start(recipe).lineage
  return lineage[-1].tokens if lineage else 0


def _keep(run: Run, phase: TrainPhase | SurgeryPhase, model: Model) -> None:
  """Writes a finished phase's model, unless an earlier start did."""
  path = run.directory / phase.name
  if store.is_finished(path):
    return
  # An interrupted save leaves a part in a bucket.
  if jax.process_index() == 0 and path.exists():
    path.rmtree()
  multihost_utils.sync_global_devices(f"room for {phase.name}")
  store.save_model(path, model.params, model.manifest, run.tokenizer_path)


def _operate(run: Run, phase: SurgeryPhase, model: Model) -> Model:
  tokens_BS = None
  if phase.surgery.needs_tokens:
    tokens_BS = batches.calibration(
      run.recipe, phase, model.config.context_tokens, run.base_dir
    )
  config, params = compose.apply(
    phase.surgery, model.config, model.params, tokens_BS
  )
  # What the surgery adds is one process's own until here.
  shardings = sharding.param_shardings(
    run.mesh, transformer.param_shapes(config)
  )
  manifest = model.manifest.after(
    phase.name, {"surgery": phase.surgery}, run.parent(phase), model=config
  )
  spread = jax.jit(lambda x: x, out_shardings=shardings)
  return Model(spread(params), manifest)
