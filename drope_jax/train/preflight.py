"""What a recipe reads and leads to, checked before its first step."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax import sharding
from drope_jax.checkpoint import store
from drope_jax.data import paths, pipeline, tokenizer
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.surgery import compose
from drope_jax.train import tuning
from drope_jax.train.recipe import Recipe, SurgeryPhase, TrainPhase


@contextlib.contextmanager
def _telling_where_paths_start() -> Iterator[None]:
  """Adds the rule to the error of a path of a recipe that leads nowhere."""
  try:
    yield
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f"{error} Relative paths of a recipe's stores and tokenizer start at "
      "--data; Recipe.init_from starts where the command runs."
    ) from error


@_telling_where_paths_start()
def check(
  recipe: Recipe, mesh: jax.sharding.Mesh, base_dir: str | None
) -> dict[str, str]:
  """Checks that every phase can run, before anything is written.

  Returns:
    The fingerprint of each store, by its path in the recipe.

  Raises:
    FileNotFoundError, ValueError: a store, tokenizer or checkpoint is missing
      or does not fit the others; a surgery does not fit the model.
  """
  if recipe.model is not None:
    config = recipe.model
    tokens = tokenizer.load(paths.resolve(recipe.tokenizer, base_dir))
    fingerprint, size = tokens.fingerprint, tokens.vocab_size
  else:
    manifest, _ = store.describe(paths.resolve(recipe.init_from))
    config = manifest.model
    if manifest.tokenizer is None:
      raise ValueError(
        "A run that starts from a checkpoint needs its tokenizer, got none in "
        f"{recipe.init_from}. Save the checkpoint again with it."
      )
    fingerprint = manifest.tokenizer.fingerprint
    size = manifest.tokenizer.vocab_size
  if size > config.vocab_size:
    raise ValueError(
      f"The tokenizer must fit the model, got {size} pieces for a vocab_size "
      f"of {config.vocab_size}. Raise ModelConfig.vocab_size."
    )
  _require_known(recipe.compiler_options)
  fingerprints = {}
  for index, phase in enumerate(recipe.phases):
    if isinstance(phase, SurgeryPhase):
      if phase.surgery.needs_tokens:
        calibration(phase, recipe.phases[:index])
      config = config_after(phase, config)
    for data in _read_by(phase):
      opened_stores = pipeline.open_stores(data, base_dir)
      for path, opened in zip(data.stores, opened_stores, strict=True):
        fingerprints[path] = opened.fingerprint
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
      tuning.of(phase, transformer.param_shapes(config))  # Refuses its names.
      sharding.require_even_batch(
        mesh, phase.microbatch_size, phase.context_tokens
      )
      batches(recipe, phase, mesh, base_dir)  # Refuses too short a store.
      held_out_batches(phase, mesh, base_dir)
  return fingerprints


@_telling_where_paths_start()
def start_config(recipe: Recipe) -> ModelConfig:
  """Returns the config that a recipe's first phase starts from.

  Raises:
    FileNotFoundError: there is no such checkpoint.
  """
  if recipe.model is not None:
    return recipe.model
  return store.describe(paths.resolve(recipe.init_from))[0].model


def _require_known(compiler_options: Mapping[str, Any]) -> None:
  try:
    jax.jit(lambda: 0, compiler_options={**compiler_options}).lower().compile()
  except (ValueError, jax.errors.JaxRuntimeError) as error:
    raise ValueError(
      "Recipe.compiler_options must be XLA's for this platform, got "
      f"{dict(compiler_options)} ({str(error).splitlines()[0]}). Remove it."
    ) from error


def batches(
  recipe: Recipe,
  phase: TrainPhase,
  mesh: jax.sharding.Mesh,
  base_dir: str | None,
  start_sequence: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns this process's batches of a phase, as `pipeline.batches`."""
  part, parts = sharding.process_part(mesh)
  return pipeline.batches(
    phase.data,
    batch_size=phase.batch_size,
    context_tokens=phase.context_tokens,
    seed=recipe.seed,
    start_sequence=start_sequence,
    part=part,
    parts=parts,
    workers=recipe.read_workers,
    prefetch_batches=recipe.prefetch_batches,
    base_dir=base_dir,
  )


def held_out_batches(
  phase: TrainPhase, mesh: jax.sharding.Mesh, base_dir: str | None
) -> list[dict[str, np.ndarray]]:
  """Returns this process's rows of a phase's held-out text, [] without one."""
  if phase.held_out is None:
    return []
  rows, (part, parts) = phase.microbatch_size, sharding.process_part(mesh)
  endless = pipeline.batches(
    phase.held_out.data,
    batch_size=rows,
    context_tokens=phase.context_tokens,
    seed=0,
    part=part,
    parts=parts,
    base_dir=base_dir,
  )
  count = math.ceil(phase.held_out.sequences / rows)
  return [*itertools.islice(endless, count)]


def calibration(
  phase: SurgeryPhase, before: Sequence[TrainPhase | SurgeryPhase]
) -> pipeline.DataConfig:
  """Returns the text that a surgery's matched gains are measured on.

  Raises:
    ValueError: it names none, and no training came before it.
  """
  trained = [p.data for p in before if isinstance(p, TrainPhase)]
  if phase.calibration is None and not trained:
    raise ValueError(
      f"{phase.name}: matched gains are measured on text, got none. Set "
      "SurgeryPhase.calibration, or let a training come before."
    )
  return phase.calibration or trained[-1]


def store_paths(recipe: Recipe) -> list[str]:
  """Returns the path of each token store that a recipe reads, once."""
  read = [data for phase in recipe.phases for data in _read_by(phase)]
  return [*dict.fromkeys(path for data in read for path in data.stores)]


def _read_by(phase: TrainPhase | SurgeryPhase) -> list[pipeline.DataConfig]:
  if isinstance(phase, SurgeryPhase):
    data = [phase.calibration]
  else:
    data = [phase.data, phase.held_out and phase.held_out.data]
  return [config for config in data if config is not None]


def config_after(phase: SurgeryPhase, config: ModelConfig) -> ModelConfig:
  """Returns the config a surgery leads to, working on shapes alone."""
  after = []

  def operate(params, tokens_BS):
    text = tokens_BS if phase.surgery.needs_tokens else None
    config_after, params = compose.apply(phase.surgery, config, params, text)
    after.append(config_after)
    return params

  tokens_BS = jax.ShapeDtypeStruct((1, config.context_tokens), jnp.int32)
  jax.eval_shape(operate, transformer.param_shapes(config), tokens_BS)
  return after[0]
