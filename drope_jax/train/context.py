"""What the phases of a run share, and what each trains."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import os
from typing import Any, Self

from etils import epath
import jax

from drope_jax import attention, sharding
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store
from drope_jax.checkpoint.model import Model
from drope_jax.data import paths
from drope_jax.evals.periodic import Periodic
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.train import tuning as tunings
from drope_jax.train.goodput import Goodput
from drope_jax.train.phases import SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe
from drope_jax.train.state import State, averaged
from drope_jax.train.watchdog import Watchdog

Listener = Callable[[Mapping[str, Any]], None]
Measure = Callable[[transformer.Params], Mapping[str, float]]
Evaluator = Callable[[Periodic, Model, jax.sharding.Mesh, str], Measure]
"""From evals, a model without parameters, its mesh and a dtype to a measure."""
Probe = Callable[[ModelConfig, transformer.Params], Mapping[str, float]]


def start(recipe: Recipe) -> manifests.Manifest:
  """Returns the manifest of the model that a recipe starts from.

  A new model's has no tokenizer and no lineage yet.

  Raises:
    FileNotFoundError: there is no such checkpoint.
  """
  if recipe.model is not None:
    return manifests.Manifest(recipe.model)
  assert recipe.init_from is not None  # A recipe has this or a model.
  return store.describe(paths.resolve(recipe.init_from))[0]


def tokenizer_path(recipe: Recipe, base_dir: str | None) -> epath.Path:
  """Returns the tokenizer file of a recipe, or of what it starts from.

  Args:
    recipe: with one of them.
    base_dir: where a relative path of the recipe's tokenizer starts.
  """
  if recipe.tokenizer is not None:
    return paths.resolve(recipe.tokenizer, base_dir)
  assert recipe.init_from is not None  # A tokenizer comes with a model.
  return store.tokenizer_path(paths.resolve(recipe.init_from))


@dataclasses.dataclass(frozen=True)
class Run:
  """A recipe that is being run; other attributes are arguments of `loop.run`.

  Attributes:
    mesh: over all devices.
    stores: the SHA-256 of each store's content, by its path.
    measures: of the phases with evals, by their names.
    start_tokens: that the initial model was trained on before the run.
    goodput: of all starts of the run.
    watchdog: of this process.
  """

  recipe: Recipe
  directory: epath.Path
  mesh: jax.sharding.Mesh
  base_dir: str | None
  stores: Mapping[str, str]
  start_tokens: int
  goodput: Goodput
  watchdog: Watchdog
  on_metrics: Listener
  probe: Probe | None
  measures: Mapping[str, Measure]
  stopping: Callable[[int], bool]

  @property
  def tokenizer_path(self) -> epath.Path:
    """The tokenizer file that the run's checkpoints contain."""
    return tokenizer_path(self.recipe, self.base_dir)

  @property
  def _init_path(self):
    return paths.resolve(self.recipe.init_from)

  def parent(self, phase: TrainPhase | SurgeryPhase) -> str | None:
    """Returns the name in the lineage of what a phase starts from."""
    index = self.recipe.phases.index(phase)
    if index == 0:
      return self.recipe.init_from
    return self.recipe.phases[index - 1].name

  def backend(self, phase: TrainPhase, config: ModelConfig) -> attention.Choice:
    """Returns the attention backend of a phase's steps."""
    return self.recipe.backend(phase, config, self.mesh.devices.flat[0])

  def load(self, path: os.PathLike, dtype: str | None = None) -> Model:
    """Returns a checkpoint's model, sharded over the run's mesh."""
    config = store.describe(path)[0].model
    shardings = sharding.param_shardings(
      self.mesh, transformer.param_shapes(config)
    )
    return Model(*store.load_model(path, shardings=shardings, dtype=dtype))

  def initial(self) -> Model:
    """Returns the model of the checkpoint that the run starts from."""
    # Trained parameters are float32, whatever the dtype of the checkpoint.
    # Where all phases keep frozen ones in bfloat16, memory may not hold all of
    # them in float32.
    kept = {
      phase.frozen_dtype
      for phase in self.recipe.phases
      if isinstance(phase, TrainPhase)
    }
    return self.load(
      self._init_path, None if kept == {"bfloat16"} else "float32"
    )

  def base(self, dtype: str) -> Model:
    """Returns the model before the run's first surgery."""
    trained = self.recipe.base
    path = self._init_path if trained is None else self.directory / trained.name
    return self.load(path, dtype)


@dataclasses.dataclass(frozen=True)
class Training:
  """A phase of a run, as it trains a model.

  Attributes:
    run: of the phase.
    phase: the training.
    first: the run's step at which it starts.
    model: that it starts from, with shapes in the place of parameters.
    config: of the model, with the phase's context length.
    backend: of attention.
    tuning: what the phase trains.
    base: what it does not train.
  """

  run: Run
  phase: TrainPhase
  first: int
  model: Model
  config: ModelConfig
  backend: attention.Choice
  tuning: tunings.Tuning
  base: transformer.Params

  @classmethod
  def of(cls, run: Run, phase: TrainPhase, first: int, model: Model) -> Self:
    """Returns the training of a model by a phase of a run.

    Raises:
      ValueError: the phase names parameters that the model does not have.
    """
    config = phase.config_of(model.config)
    tuning = tunings.of(phase, model.params)
    shapes = jax.eval_shape(lambda params: params, model.params)
    return cls(
      run=run,
      phase=phase,
      first=first,
      model=dataclasses.replace(model, params=shapes),
      config=config,
      backend=run.backend(phase, config),
      tuning=tuning,
      base=tuning.base(model.params),
    )

  @property
  def last(self) -> int:
    """The run's step at which the phase ends, at the latest."""
    return self.first + self.phase.num_steps

  def params(self, state: State) -> transformer.Params:
    """Returns the parameters of a checkpoint of a state."""
    return self.tuning.model(self.base, averaged(self.phase, state))

  def tokens_at(self, step: int) -> int:
    """Returns the tokens that the run has read up to a step."""
    before = self.model.tokens - self.run.start_tokens
    return before + (step - self.first) * self.phase.step_tokens

  def manifest_at(
    self, step: int, measured: Mapping[str, float]
  ) -> manifests.Manifest:
    """Returns the manifest of the model after a step.

    Args:
      step: of the run.
      measured: on held-out text and by evals after this step; {} without a
        measurement.
    """
    phase, taken = self.phase, step - self.first
    stores = {path: self.run.stores[path] for path in phase.data.stores}
    arguments: dict[str, Any] = {
      # Evals change nothing of the model, and a suite is long.
      "phase": dataclasses.replace(phase, evals=None),
      "attention": self.backend,
      "seed": self.run.recipe.seed,
      "stores": stores,
    }
    if phase.ema_decay is not None:
      arguments["weights"] = "averaged"
    if math.isfinite(loss := measured.get("held_out_loss", math.nan)):
      arguments[manifests.HELD_OUT_LOSS] = loss
    if phase.evals is not None and phase.evals.best is not None:
      score = measured.get(phase.evals.best, math.nan)
      arguments[manifests.BEST_BY] = {
        "score": phase.evals.best,
        "value": score if math.isfinite(score) else None,
        "higher_is_better": phase.evals.best_is_highest,
      }
    if "tokens" in measured:
      arguments["recovery"] = {
        name: measured[name]
        for name in ("held_out_loss", "base_loss", "recovered", "tokens")
      }
    return self.model.manifest.after(
      phase.name,
      arguments,
      self.run.parent(phase),
      model=self.config,
      steps=taken,
      tokens=taken * phase.step_tokens,
    )
