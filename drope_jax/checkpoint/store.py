"""Checkpoints on disk or in a bucket, through Orbax's v1 API.

Every checkpoint is one Orbax directory that stands by itself:

    params/                   the parameter tree
    rest/                     the other training state; in a run's steps only
    tokenizer/FILE            a copy of the tokenizer's file
    _CHECKPOINT_METADATA      holds the manifest, and checksums

`save_model` writes one; a `runs.RunStore` one per saved step, `RUN/1000`, of
which `RUN` means the newest and `RUN/best` that of the least held-out loss.
Orbax writes under a temporary name and renames, or commits by a marker in a
bucket: whatever was interrupted is never taken for a checkpoint. In a program
of many processes each must call each function here.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
import threading
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from drope_jax import trees
from drope_jax.checkpoint import checksums, files, streaming, tokenizer_file
from drope_jax.checkpoint.files import Path
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.data import paths
from drope_jax.model import transformer

_BEST = "best"


def save_model(
  directory: Path,
  params: Any,
  manifest: Manifest,
  tokenizer_path: Path | None = None,
) -> None:
  """Writes a model checkpoint; returns once it is complete.

  Raises:
    ValueError: `directory` exists; params do not match `manifest.model`; the
      tokenizer file does not match `manifest.tokenizer`.
  """
  directory = require_new(directory)
  items = files.items({files.PARAMS: params}, manifest, tokenizer_path)
  metadata = files.metadata(manifest, {files.PARAMS: params})
  files.save(directory, items, metadata, files.context())


def save_streamed(
  directory: Path,
  leaves: Mapping[str, streaming.Leaf],
  manifest: Manifest,
  tokenizer_path: Path | None = None,
  *,
  overwrite: bool = False,
) -> None:
  """Writes a model checkpoint, each block of it as it is read.

  Args:
    directory: as `save_model` takes it.
    leaves: by path in the parameter tree.
    manifest: fits them.
    tokenizer_path: as `save_model` takes it.
    overwrite: whether a checkpoint at `directory`, and nothing else, is
      replaced. It is kept beside, as *.replaced, until the new one is whole.

  Raises:
    ValueError: as `save_model`, or what is to be replaced is no checkpoint, or
      lies in a bucket.
  """
  replaces = overwrite and is_finished(directory)
  if replaces and paths.in_bucket(directory):
    raise ValueError(
      "A checkpoint is replaced by renaming it, which a bucket cannot do at "
      f"once, got {directory}. Remove it first, or choose another."
    )
  if not replaces:
    require_new(directory)
  stopped = threading.Event()
  tree = trees.unflatten(
    {path: _until(stopped, leaf) for path, leaf in leaves.items()}
  )
  items = files.items({files.PARAMS: tree}, manifest, tokenizer_path)
  directory = files.absolute(directory)
  replaced = directory.parent / f"{directory.name}.replaced"
  if replaces:
    require_new(replaced)
    directory.rename(replaced)
  try:
    context = files.context(streaming.Handler)
    # Its chunks have checksums of their own.
    files.save(directory, items, files.metadata(manifest), context, stopped.set)
  except BaseException:
    if replaces:
      replaced.rename(directory)
    raise
  if replaces:
    replaced.rmtree()


def require_new(directory: Path) -> epath.Path:
  """Returns the absolute path of a directory that does not exist yet.

  In a bucket it may hold what an interrupted save left, which the next removes.

  Raises:
    ValueError: it exists, or would lie in a file.
  """
  directory = files.absolute(directory)
  if directory.exists() and not files.is_cut_off(directory):
    raise ValueError(
      f"A checkpoint is written to a new directory, but {directory} exists. "
      "Choose another, or remove it first."
    )
  if paths.in_bucket(directory):
    return directory
  file = next((p for p in pathlib.Path(directory).parents if p.is_file()), None)
  if file is not None:  # Orbax would wait ten minutes for the directory.
    raise ValueError(
      f"A checkpoint is written to a new directory, but {directory} lies in "
      f"{file}, which is a file. Choose another."
    )
  return directory


def load_model(
  path: Path, *, shardings: Any = None, dtype: Any = None
) -> tuple[Any, Manifest]:
  """Returns a checkpoint's params and manifest; optimizer state is not read.

  Args:
    path: as `locate` takes it.
    shardings: pytree of `Sharding` like the params; None puts them on the
      first local device.
    dtype: to cast to while reading; None keeps each leaf as stored.

  Raises:
    FileNotFoundError: there is no finished checkpoint at `path`.
    ValueError: it is damaged, or its arrays do not match its config.
  """
  checkpoint = locate(path)
  manifest, stored, saved = files.describe(checkpoint)
  trees.require_same_leaves(
    transformer.param_shapes(manifest.model), stored, f"{checkpoint}"
  )
  if shardings is None:
    shardings = jax.tree.map(lambda _: files.first_device(), stored)
  abstract = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, dtype or leaf.dtype, sharding=sharding
    ),
    stored,
    shardings,
  )
  with files.context(), files.reading(checkpoint):
    params = ocp.load(checkpoint, abstract, checkpointable_name=files.PARAMS)
    files.check({files.PARAMS: params}, saved)
  return params, manifest


def load_leaf(checkpoint: Path, path: str, leaf: Any) -> jax.Array:
  """Returns one parameter of a checkpoint, which is not read as a whole.

  Args:
    checkpoint: as `locate` returns it.
    path: the parameter's in the tree.
    leaf: its shape and dtype, from `describe`.

  Raises:
    ValueError: the checkpoint is damaged.
  """
  checkpoint = files.absolute(checkpoint)
  saved = files.describe(checkpoint)[2]
  abstract = trees.unflatten({path: files.abstract(leaf)})
  context = files.context()
  context.pytree.loading.partial_load = True
  with context, files.reading(checkpoint):
    tree = ocp.load(checkpoint, abstract, checkpointable_name=files.PARAMS)
    files.check({files.PARAMS: tree}, saved)
  return trees.flatten(tree)[path]


def describe(path: Path) -> tuple[Manifest, Any]:
  """Returns the manifest and each parameter's stored shape and dtype.

  Reads no array. Raises as `load_model` does, but checks no schema.
  """
  return files.describe(locate(path))[:2]


def fingerprint(path: Path) -> str:
  """Returns what any other weights or another manifest would change.

  It is of the files as they lie there, whichever version reads them. Reads no
  array. Raises as `describe` does.
  """
  data, _, saved = files.stored(locate(path))
  return checksums.of_json([data, saved])


def locate(path: Path) -> epath.Path:
  """Returns the checkpoint that `path` means.

  Args:
    path: a checkpoint, a run (its newest step), or RUN/best (that of the least
      held-out loss which is kept, in the phase of the newest that has one).

  Raises:
    FileNotFoundError: neither a finished checkpoint nor a run that has one.
  """
  path = files.absolute(path)
  if is_finished(path):
    return path
  if path.name == _BEST and (steps := finished_steps(path.parent)):
    best = best_step(
      {step: held_out(path.parent / str(step)) for step in steps}
    )
    if best is None:
      raise FileNotFoundError(
        f"{path} needs a saved step with a held-out loss, got none. Set "
        "TrainPhase.held_out, and save where it is measured, or name a step."
      )
    return path.parent / str(best)
  steps = finished_steps(path)
  if not steps:
    raise FileNotFoundError(
      "A checkpoint, or a run with a finished step, is needed, got "
      f"{path}, which {'has neither' if path.exists() else 'does not exist'}. "
      "Check the path; an interrupted save is not a checkpoint."
    )
  return path / str(steps[-1])


def finished_steps(run: Path) -> list[int]:
  """Returns the steps of a run that are complete on disk, in order."""
  run = files.absolute(run)
  try:
    names = [p.name for p in run.iterdir()] if run.is_dir() else []
  except FileNotFoundError:
    # A bucket's folder is there while an object is: another process may just
    # have removed the last, with which it tried whether it can write.
    names = []
  steps = sorted(int(name) for name in names if name.isdecimal())
  return [step for step in steps if is_finished(run / str(step))]


def go_back(run: Path, step: int) -> None:
  """Removes a run's steps after `step`, if its manifest can be read.

  Raises:
    ValueError: `step` is not a finished one, or damaged.
  """
  steps = finished_steps(run)
  if step not in steps:
    raise ValueError(
      f"A run goes back to a step that it has kept, got {step} for {run}, "
      f"which has {', '.join(map(str, steps)) or 'none'}. Name one of them."
    )
  run = files.absolute(run)
  describe(run / str(step))
  # No process removes before all have looked.
  multihost_utils.sync_global_devices(f"going back to {step}")
  if jax.process_index() == 0:
    for later in reversed([s for s in steps if s > step]):
      (run / str(later)).rmtree()
  multihost_utils.sync_global_devices(f"gone back to {step}")


def tokenizer_path(path: Path) -> epath.Path:
  """Returns where the tokenizer's file lies in a checkpoint, a run, or a step.

  Raises:
    FileNotFoundError: no checkpoint, or it has no tokenizer.
    ValueError: the file's fingerprint is not the manifest's.
  """
  checkpoint = locate(path)
  tokenizer = describe(checkpoint)[0].tokenizer
  if tokenizer is None:
    raise FileNotFoundError(
      f"A tokenizer is needed, but {checkpoint} was saved without one. Name "
      "its file, or save the checkpoint again with it."
    )
  file = checkpoint / files.TOKENIZER / tokenizer.filename
  tokenizer_file.checked(file, tokenizer)
  return file


def best_step(
  held_out: Mapping[int, tuple[str, float] | None],
) -> int | None:
  """Returns the step of the least loss in the newest phase that has one."""
  known = {step: found for step, found in held_out.items() if found is not None}
  if not known:
    return None
  newest = known[max(known)][0]
  return min(
    (loss, step) for step, (phase, loss) in known.items() if phase == newest
  )[1]


def held_out(checkpoint: epath.Path) -> tuple[str, float] | None:
  """Returns the manifest's `held_out`; None too where it cannot be read."""
  try:
    return files.describe(checkpoint)[0].held_out
  except ValueError:  # Whoever reads the checkpoint is told.
    return None


def is_finished(path: Path) -> bool:
  """Returns whether `path` is itself a checkpoint, complete on disk."""
  path = files.absolute(path)
  # Orbax alone also takes any folder for a checkpoint of its older layout.
  return (path / files.METADATA).exists() and ocp.is_orbax_checkpoint(path)


def _until(stopped: threading.Event, leaf: streaming.Leaf) -> streaming.Leaf:
  """Returns a leaf that cannot be read once `stopped` is set."""

  def read(region):
    if stopped.is_set():
      raise InterruptedError
    return leaf.read(region)

  return dataclasses.replace(leaf, read=read)
