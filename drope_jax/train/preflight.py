"""What is checked, and claimed, before a run's first step."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import json
import math
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from drope_jax import sharding
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store
from drope_jax.data import lock, paths, pipeline, tokenizer, whole_file
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.surgery import compose
from drope_jax.train import tuning
from drope_jax.train.recipe import Recipe, SurgeryPhase, TrainPhase

# Fields of a Recipe that change no number that the run computes; the mesh, none
# beyond rounding.
WITHOUT_EFFECT = (
  "mesh",
  "compiler_options",
  "save_every_steps",
  "save_every_minutes",
  "keep_saves",
  "keep_every_steps",
  "log_every_steps",
  "read_workers",
  "prefetch_batches",
)


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


def claim(
  recipe: Recipe, stores: Mapping[str, str], directory: epath.Path
) -> None:
  """Writes recipe.json, or checks that the folder is this recipe's.

  Every process of the run calls it; the first writes, the others wait.

  Args:
    recipe: to be run.
    stores: the fingerprints that `check` returned.
    directory: the run's.

  Raises:
    ValueError: it is another recipe's, was begun with other tokens in a store,
      or holds other files.
  """
  file = directory / "recipe.json"
  encoded = _with_effect(manifests.encode(recipe)) | {"stores": dict(stores)}
  if file.exists():
    found = _with_effect(_completed(_parse(file), recipe))
    _require_same(found, encoded, directory)
  elif directory.exists() and any(
    p.suffix != ".tmp" and p.name != lock.FILENAME for p in directory.iterdir()
  ):
    raise ValueError(
      f"A run needs a new folder, or its own, got {directory}, which holds "
      "other files. Choose another --out."
    )
  # No process writes before all have looked: they find, and decide, the same.
  multihost_utils.sync_global_devices("looked for recipe.json")
  if jax.process_index() == 0 and not file.exists():
    directory.mkdir(parents=True, exist_ok=True)
    whole_file.write(file, (json.dumps(encoded, indent=1) + "\n").encode())
  multihost_utils.sync_global_devices("recipe.json is there")


def _require_known(compiler_options: Mapping[str, Any]) -> None:
  try:
    jax.jit(lambda: 0, compiler_options={**compiler_options}).lower().compile()
  except (ValueError, jax.errors.JaxRuntimeError) as error:
    raise ValueError(
      "Recipe.compiler_options must be XLA's for this platform, got "
      f"{dict(compiler_options)} ({str(error).splitlines()[0]}). Remove it."
    ) from error


def _with_effect(encoded: Any) -> Any:
  """Returns what may not change between one start of a run and the next."""
  if not isinstance(encoded, dict):
    return encoded
  return {k: v for k, v in encoded.items() if k not in WITHOUT_EFFECT}


def _completed(found: Any, value: Any) -> Any:
  """Returns what was found of a value, with the fields gained since.

  A run that was begun before a class had a field means its default.
  """
  if isinstance(value, tuple) and isinstance(found, list):
    if len(value) != len(found):
      return found
    return [_completed(f, v) for f, v in zip(found, value, strict=True)]
  if not dataclasses.is_dataclass(value) or not isinstance(found, dict):
    return found
  completed = dict(found)
  for field in dataclasses.fields(value):
    if field.name in found:
      completed[field.name] = _completed(
        found[field.name], getattr(value, field.name)
      )
    elif field.default is not dataclasses.MISSING:
      completed[field.name] = manifests.encode(field.default)
  return completed


def _require_same(found: Any, encoded: Any, directory: epath.Path) -> None:
  changed = _differences(found, encoded)
  fields = [path for path in changed if not path.startswith("stores")]
  if fields:
    raise ValueError(
      f"A run continues with the recipe that began it, but {directory} was "
      f"begun with another: {', '.join(fields) or 'its form'} differs. Choose "
      "another --out, or remove that folder."
    )
  if changed:
    names = ", ".join(path.removeprefix("stores.") for path in changed)
    raise ValueError(
      "A run reads on in the stores that it began with, got other tokens in "
      f"{names} than {directory} was begun with. Put the old store back, or "
      "choose another --out."
    )


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
  if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
    return [d for k in a for d in _differences(a[k], b[k], f"{path}.{k}")]
  if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
    pairs = enumerate(zip(a, b, strict=True))
    return [
      d for i, (x, y) in pairs for d in _differences(x, y, f"{path}[{i}]")
    ]
  return [] if a == b else [path.lstrip(".")]


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


def _parse(file: epath.Path) -> Any:
  try:
    return json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(
      f"A run's recipe.json must be whole JSON, got {file} ({error}). Copy it "
      "again, or start in another --out."
    ) from error
