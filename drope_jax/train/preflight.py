"""Checks before a run's first step that all of its recipe can run."""

from collections.abc import Iterator, Mapping
import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from drope_jax import sharding
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.checkpoint.model import Model
from drope_jax.data import pipeline, tokenizer
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import LogScaled
from drope_jax.positional import pattern as patterns
from drope_jax.surgery import compose
from drope_jax.train import batches, context
from drope_jax.train import state as state_lib
from drope_jax.train.context import Evaluator, Measure
from drope_jax.train.phases import SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe


@contextlib.contextmanager
def _telling_where_paths_start() -> Iterator[None]:
  """Adds to the error of a missing file where relative paths start."""
  try:
    yield
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f"{error} Relative paths of a recipe's stores and tokenizer start at "
      "`base_dir`; Recipe.init_from and the text of evals start at the working "
      "directory."
    ) from error


class Checked(NamedTuple):
  """What a check has opened.

  Attributes:
    stores: the fingerprint of each store, by its path in the recipe.
    measures: of the phases with evals, by their names.
  """

  stores: dict[str, str]
  measures: dict[str, Measure]


@_telling_where_paths_start()
def check(
  recipe: Recipe,
  mesh: jax.sharding.Mesh,
  base_dir: str | None,
  evaluator: Evaluator | None,
) -> Checked:
  """Checks that every phase can run, before anything is written.

  Args:
    recipe: to run.
    mesh: over all devices.
    base_dir: where relative paths of stores and of the tokenizer start.
    evaluator: of phases with evals.

  Raises:
    FileNotFoundError, ValueError: a store, tokenizer or checkpoint is missing
      or does not fit the others; a surgery does not fit the model; evals cannot
      be run.
  """
  start = context.start(recipe)
  config = start.model
  if recipe.model is not None:
    tokens = tokenizer.load(context.tokenizer_path(recipe, base_dir))
    fingerprint, size = tokens.fingerprint, tokens.vocab_size
  elif start.tokenizer is None:
    raise ValueError(
      "A run that starts from a checkpoint needs its tokenizer, got none in "
      f"{recipe.init_from}. Save the checkpoint again with it."
    )
  else:
    fingerprint = start.tokenizer.fingerprint
    size = start.tokenizer.vocab_size
  if size > config.vocab_size:
    raise ValueError(
      f"The tokenizer must fit the model, got {size} pieces for a vocab_size "
      f"of {config.vocab_size}. Raise ModelConfig.vocab_size."
    )
  _require_known(recipe.compiler_options)
  checked, original = Checked({}, {}), config
  moments = None
  for phase, config in phases(recipe, original):
    if isinstance(phase, SurgeryPhase) and phase.surgery.needs_tokens:
      batches.calibration_data(recipe, phase)
    for data in batches.data_of(phase):
      opened_stores = pipeline.open_stores(data, base_dir)
      for path, opened in zip(data.stores, opened_stores, strict=True):
        checked.stores[path] = opened.fingerprint
        if opened.tokenizer_fingerprint != fingerprint:
          raise ValueError(
            f"{phase.name}: a store needs the model's tokenizer "
            f"({fingerprint[:12]}), got {opened.tokenizer_fingerprint[:12]} in "
            f"{opened.path}. Tokenize the text again with that file."
          )
        if opened.vocab_size > config.vocab_size:
          raise ValueError(
            f"{phase.name}: a store must fit the model's vocab_size of "
            f"{config.vocab_size}, got ids up to {opened.vocab_size} in "
            f"{opened.path}. Tokenize the text again."
          )
    if isinstance(phase, TrainPhase):
      _require_trainable(recipe, phase, config, mesh)
      if phase.teacher is not None or phase.until_recovered is not None:
        phase.config_of(original)  # Refuses a context beyond its positions.
      state = state_lib.abstract(phase, config, mesh)  # Refuses its names.
      if phase.optimizer_start == "kept":  # Refuses what a surgery added.
        state_lib.keep_moments(state["opt_state"], moments)
      moments = state["opt_state"]
      sharding.require_even_batch(
        mesh, phase.microbatch_size, phase.context_tokens
      )
      batches.training(recipe, phase, mesh, base_dir)  # Refuses short stores.
      batches.held_out(phase, mesh, base_dir)
      if phase.evals is not None:
        file = context.tokenizer_path(recipe, base_dir)
        checked.measures[phase.name] = _measure(
          evaluator, phase, config, file, mesh
        )
  return checked


def phases(
  recipe: Recipe, config: ModelConfig
) -> Iterator[tuple[TrainPhase | SurgeryPhase, ModelConfig]]:
  """Yields each phase, and the config that a model has in it or after it.

  Args:
    recipe: with the phases.
    config: that the first starts from.

  Raises:
    ValueError: a phase does not fit the model.
  """
  for phase in recipe.phases:
    if isinstance(phase, SurgeryPhase):
      config = config_after(phase, config)
    else:
      config = phase.config_of(config)
    yield phase, config


@_telling_where_paths_start()
def start_config(recipe: Recipe) -> ModelConfig:
  """Returns the config that a recipe's first phase starts from.

  Raises:
    FileNotFoundError: there is no such checkpoint.
  """
  return context.start(recipe).model


def _require_trainable(recipe, phase, config, mesh) -> None:
  """Raises ValueError if a phase cannot train such a model."""
  schemes = patterns.layer_plan(config.positional, config.num_layers).schemes
  # No surgery takes this scale away: a base has it only where the model does.
  if any(isinstance(scheme, LogScaled) for scheme in schemes):
    for data in batches.data_of(phase):
      if data.document_mask:
        raise ValueError(
          f"{phase.name}: LogScaled counts a token's place in its sequence, "
          f"got DataConfig.document_mask for {', '.join(data.stores)}, by "
          "which documents share one. Set it to False."
        )
  if recipe.attention != "auto":
    backend = recipe.backend(phase, config, mesh.devices.flat[0])
    tokens_BS = jax.ShapeDtypeStruct((1, config.context_tokens), jnp.int32)
    computed = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, phase.compute_dtype),
      transformer.param_shapes(config),
    )
    jax.eval_shape(  # Refuses a backend that lacks what the model needs.
      functools.partial(
        transformer.hidden,
        config,
        backend=backend,
        capture=("max_logit",) if phase.log_max_logit else (),
      ),
      computed,
      tokens_BS,
    )


def _measure(evaluator, phase, config, tokenizer_path, mesh) -> Measure:
  """Returns the measure of a phase's evals.

  Raises:
    FileNotFoundError, ValueError: the evals cannot be run.
  """
  if evaluator is None:
    raise ValueError(
      f"{phase.name}: TrainPhase.evals needs an evaluator, got none. Pass "
      "inference.measurement.Measurement to loop.run."
    )
  model = Model({}, Manifest(config), tokenizer_path)
  try:
    return evaluator(phase.evals, model, mesh, phase.compute_dtype)
  except (FileNotFoundError, ValueError) as error:
    raise type(error)(f"{phase.name}: {error}") from error


def _require_known(compiler_options: Mapping[str, Any]) -> None:
  try:
    jax.jit(lambda: 0, compiler_options={**compiler_options}).lower().compile()
  except (ValueError, jax.errors.JaxRuntimeError) as error:
    raise ValueError(
      "Recipe.compiler_options must be XLA's for this platform, got "
      f"{dict(compiler_options)} ({str(error).splitlines()[0]}). Remove it."
    ) from error


def config_after(phase: SurgeryPhase, config: ModelConfig) -> ModelConfig:
  """Returns the config after a surgery, computed with shapes alone."""
  after = []

  def operate(params, tokens_BS):
    text = tokens_BS if phase.surgery.needs_tokens else None
    config_after, params = compose.apply(phase.surgery, config, params, text)
    after.append(config_after)
    return params

  tokens_BS = jax.ShapeDtypeStruct((1, config.context_tokens), jnp.int32)
  jax.eval_shape(operate, transformer.param_shapes(config), tokens_BS)
  return after[0]
