"""Checkpoints on disk or in a bucket, through Orbax's v1 API.

Every checkpoint is one self-contained Orbax directory:

    params/                   the parameter tree
    rest/                     the other training state; only in a run's steps
    tokenizer/FILE            a copy of the tokenizer's file
    _CHECKPOINT_METADATA      the manifest and the checksums

`save_model` writes one. `runs.RunStore` writes one for each saved step, for
example `RUN/1000`. `RUN` means the newest step, and `RUN/best` the one with the
lowest held-out loss, or the best score of `Periodic.best`. Orbax writes under a
temporary name and then renames; in a bucket it writes a marker last. So an
interrupted save is never mistaken for a checkpoint. In a program of several
processes, each must call each function here.
"""

from collections.abc import Callable, Mapping
import dataclasses
import gc
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
from drope_jax.checkpoint.manifest import FITTED_SLOPE, Manifest
from drope_jax.data import paths
from drope_jax.model import transformer

_BEST = "best"
_AT_ONCE = 2**20
"""Numbers to be read at once: a read, and collecting its garbage, take time."""


def save_model(
  directory: Path,
  params: Any,
  manifest: Manifest,
  tokenizer_path: Path | None = None,
) -> None:
  """Writes a model checkpoint; returns once it is complete.

  Raises:
    ValueError: `directory` exists; or params do not match `manifest.model`; or
      the tokenizer file does not match `manifest.tokenizer`.
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
  """Writes a model checkpoint block by block, as the blocks are read.

  Args:
    directory: as for `save_model`.
    leaves: by path in the parameter tree.
    manifest: of these leaves.
    tokenizer_path: as for `save_model`.
    overwrite: replace an existing checkpoint at `directory`, once the new one
      is whole. Until then that is beside it, in a hidden folder.

  Raises:
    ValueError: as `save_model`; or `directory` holds something that is not a
      checkpoint; or it is to be replaced in a bucket.
  """
  written = directory = files.absolute(directory)
  new, replaced = (
    directory.parent / f".{directory.name}.drope-{part}"
    for part in ("new", "replaced")
  )
  if overwrite and not paths.in_bucket(directory) and replaced.exists():
    # A kill came while one was replaced.
    if is_finished(directory):
      replaced.rmtree()
    elif not directory.exists():
      replaced.rename(directory)
  replaces = overwrite and is_finished(directory)
  if replaces and paths.in_bucket(directory):
    raise ValueError(
      "A checkpoint is replaced by renaming it, which a bucket cannot do "
      f"atomically, got {directory}. Delete it first, or choose another."
    )
  if replaces:
    written = new
    if is_finished(written):
      written.rmtree()
  require_new(written)
  stopped = threading.Event()
  tree = trees.unflatten(
    {path: _stoppable(stopped, leaf) for path, leaf in leaves.items()}
  )
  items = files.items({files.PARAMS: tree}, manifest, tokenizer_path)
  context = files.context(streaming.Handler)
  # No checksums here: the chunks of this handler have their own.
  files.save(written, items, files.metadata(manifest), context, stopped.set)
  if replaces:
    directory.rename(replaced)
    written.rename(directory)
    replaced.rmtree()


def require_new(directory: Path) -> epath.Path:
  """Returns the absolute path of a directory that does not exist yet.

  In a bucket it may hold an interrupted save, which the next save removes.

  Raises:
    ValueError: it exists, or its path leads through a file.
  """
  directory = files.absolute(directory)
  if directory.exists() and not files.is_interrupted(directory):
    raise ValueError(
      f"A checkpoint needs a new directory, but {directory} exists. "
      "Choose another, or delete it first."
    )
  if paths.in_bucket(directory):
    return directory
  file = next((p for p in pathlib.Path(directory).parents if p.is_file()), None)
  if file is not None:  # Orbax would wait ten minutes for the directory.
    raise ValueError(
      f"A checkpoint needs a new directory, got {directory}, but {file} is a "
      "file. Choose another."
    )
  return directory


def load_model(
  path: Path,
  *,
  shardings: Any = None,
  dtype: Any = None,
  convert: Callable[[str, jax.Array], Any] = lambda path, array: array,
) -> tuple[Any, Manifest]:
  """Returns a checkpoint's params and manifest, without optimizer state.

  Without shardings, or if it casts, it reads one array after the other, and
  small ones at once. So the memory it takes is that of what it returns and
  little more than one array. Arrays are cast after their checks.

  Args:
    path: as for `locate`.
    shardings: pytree of `Sharding` like the params; None puts them on the
      first local device.
    dtype: of the params; None keeps each leaf's.
    convert: what stands in the tree for a parameter, given its path in the tree
      and its array.

  Raises:
    FileNotFoundError: there is no finished checkpoint at `path`.
    ValueError: it is damaged, or its arrays do not match its config.
  """
  checkpoint = locate(path)
  manifest, stored, saved = _checked(checkpoint)
  leaves = trees.flatten(stored)
  where = None if shardings is None else trees.flatten(shardings)
  abstract = {
    name: jax.ShapeDtypeStruct(
      leaf.shape,
      leaf.dtype,
      sharding=files.first_device() if where is None else where[name],
    )
    for name, leaf in leaves.items()
  }
  casts = dtype is not None and any(x.dtype != dtype for x in leaves.values())
  groups = [abstract]
  if where is None or casts:
    # The largest first: the others fit where it was read.
    groups = _grouped(abstract)
  params: dict[str, Any] = {}
  read, most = 0, max(_AT_ONCE, *(leaf.size for leaf in leaves.values()))
  for group in groups:
    arrays = _read(checkpoint, group, saved)
    for name in group:
      read += leaves[name].size
      params[name] = convert(name, _cast(arrays.pop(name), dtype))
    if where is None and read >= most:
      gc.collect()  # Orbax's objects refer to each other, and to the arrays.
      read = 0
  return trees.unflatten({name: params[name] for name in leaves}), manifest


def _cast(array: jax.Array, dtype: Any) -> jax.Array:
  """Returns an array in a dtype, and deletes it if that is another."""
  if dtype is None or array.dtype == dtype:
    return array
  cast = jax.device_put(array.astype(dtype), array.sharding)
  array.delete()
  return cast


def _grouped(
  leaves: Mapping[str, jax.ShapeDtypeStruct],
) -> list[dict[str, jax.ShapeDtypeStruct]]:
  """Returns leaves, the largest first, in groups of some `_AT_ONCE` numbers."""
  groups: list[dict[str, jax.ShapeDtypeStruct]] = []
  room = 0
  for name in sorted(leaves, key=lambda name: -leaves[name].size):
    if room <= 0:
      groups.append({})
      room = _AT_ONCE
    groups[-1][name] = leaves[name]
    room -= leaves[name].size
  return groups


def save_slope(path: Path, slope: float, arguments: Mapping[str, Any]) -> None:
  """Gives a checkpoint a fitted slope of its softmax scale.

  Its manifest is replaced as a whole, and says so in its lineage.

  Args:
    path: as for `locate`.
    slope: `ModelConfig.logit_scale_slope`.
    arguments: how it was fitted, for the lineage.

  Raises:
    FileNotFoundError: there is no finished checkpoint at `path`.
    ValueError: it is damaged.
    OSError: it cannot be written.
  """
  checkpoint = locate(path)
  manifest = files.describe(checkpoint)[0]
  model = dataclasses.replace(manifest.model, logit_scale_slope=slope)
  fitted = manifest.after(
    FITTED_SLOPE,
    {"slope": slope, **arguments},
    str(checkpoint),
    model=model,
  )
  if jax.process_index() == 0:
    files.replace_manifest(checkpoint, fitted)
  multihost_utils.sync_global_devices("softmax scale saved")


def load_leaf(checkpoint: Path, path: str, leaf: Any) -> jax.Array:
  """Returns one parameter of a checkpoint, without reading the others.

  It is in the host's memory, if JAX has a CPU: all layers of a large model's
  may be more than an accelerator has.

  Args:
    checkpoint: as `locate` returns it.
    path: of the parameter in the tree.
    leaf: its shape and dtype, from `describe`.

  Raises:
    ValueError: the checkpoint is damaged.
  """
  checkpoint = files.absolute(checkpoint)
  saved = files.describe(checkpoint)[2]
  try:
    (device, *_) = jax.local_devices(backend="cpu")
  except RuntimeError:  # JAX_PLATFORMS leaves the CPU out.
    (device, *_) = jax.local_devices()
  on_host = jax.ShapeDtypeStruct(
    leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(device)
  )
  return _read(checkpoint, {path: on_host}, saved)[path]


def _read(
  checkpoint: epath.Path,
  abstract: Mapping[str, jax.ShapeDtypeStruct],
  saved: Mapping[str, str],
) -> dict[str, jax.Array]:
  """Returns some parameters of a checkpoint by path, after their checks."""
  context = files.context()
  context.pytree.loading.partial_load = True
  with context, files.reading(checkpoint):
    tree = ocp.load(
      checkpoint, trees.unflatten(abstract), checkpointable_name=files.PARAMS
    )
    files.check({files.PARAMS: tree}, saved)
  return trees.flatten(tree)


def describe(path: Path, *, check: bool = False) -> tuple[Manifest, Any]:
  """Returns the manifest and each parameter's stored shape and dtype.

  Reads no array. Raises as `load_model`, but checks the tree only by `check`.
  """
  return (_checked if check else files.describe)(locate(path))[:2]


def _checked(
  checkpoint: epath.Path,
) -> tuple[Manifest, Any, files.Checksums]:
  """Returns what `files.describe` does, if the config has such parameters."""
  manifest, stored, saved = files.describe(checkpoint)
  trees.require_same_leaves(
    transformer.param_shapes(manifest.model), stored, f"{checkpoint}"
  )
  return manifest, stored, saved


def fingerprint(path: Path) -> str:
  """Returns a hash of the checkpoint's manifest and checksums.

  It is of the stored data, whichever version of the code reads it. Reads no
  array. Raises as `describe`.
  """
  data, _, saved = files.read_stored(locate(path))
  return checksums.of_json([data, saved])


def weights_fingerprint(path: Path) -> str:
  """Returns a hash of a checkpoint's weights, which `save_slope` leaves.

  It is of the checksums of arrays. Where a checkpoint has none, as a converted
  one, it is of the lineage, in which a conversion has its source and time.
  Raises as `describe`.
  """
  data, _, saved = files.read_stored(locate(path))
  arrays = {name: of for name, of in saved.items() if name != files.MANIFEST}
  lineage = [e for e in data["lineage"] if e["operation"] != FITTED_SLOPE]
  return checksums.of_json(arrays or lineage)


def locate(path: Path) -> epath.Path:
  """Returns the checkpoint that `path` means.

  Args:
    path: a checkpoint; or a run, for its newest step; or RUN/best, for its best
      step in the newest phase that measures (`Manifest.held_out`).

  Raises:
    FileNotFoundError: neither a finished checkpoint nor a run with one.
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
        f"{path} needs a saved step that was measured, got none. Name a step, "
        "or set TrainPhase.held_out, or evals with Periodic.best, and save "
        "when it is measured."
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
    # A bucket's folder exists while an object in it does. Another process may
    # just have deleted the last one, its test of whether it can write.
    names = []
  steps = sorted(int(name) for name in names if name.isdecimal())
  return [step for step in steps if is_finished(run / str(step))]


def go_back(run: Path, step: int) -> None:
  """Deletes a run's steps after `step`, if its manifest can be read.

  Raises:
    ValueError: `step` is not finished, or damaged.
  """
  steps = finished_steps(run)
  if step not in steps:
    raise ValueError(
      f"A run can go back only to a step that it kept, got {step} for {run}, "
      f"which has {', '.join(map(str, steps)) or 'none'}. Name one of them."
    )
  run = files.absolute(run)
  describe(run / str(step))
  # Every process checks before one deletes.
  multihost_utils.sync_global_devices(f"going back to {step}")
  if jax.process_index() == 0:
    for later in reversed([s for s in steps if s > step]):
      (run / str(later)).rmtree()
  multihost_utils.sync_global_devices(f"gone back to {step}")


def tokenizer_path(path: Path) -> epath.Path:
  """Returns the path of the tokenizer's file in a checkpoint or a run.

  Raises:
    FileNotFoundError: there is no checkpoint, or it has no tokenizer.
    ValueError: the file does not have the manifest's fingerprint.
  """
  checkpoint = locate(path)
  tokenizer = describe(checkpoint)[0].tokenizer
  if tokenizer is None:
    raise FileNotFoundError(
      f"A tokenizer is needed, got {checkpoint}, which was saved without one. "
      "Name a tokenizer file, or save the checkpoint again with one."
    )
  file = checkpoint / files.TOKENIZER / tokenizer.filename
  tokenizer_file.read_checked(file, tokenizer)
  return file


def best_step(
  held_out: Mapping[int, tuple[str, float] | None],
) -> int | None:
  """Returns the step of the least value in the newest phase that has one."""
  known = {step: found for step, found in held_out.items() if found is not None}
  if not known:
    return None
  newest = known[max(known)][0]
  return min(
    (loss, step) for step, (phase, loss) in known.items() if phase == newest
  )[1]


def held_out(checkpoint: epath.Path) -> tuple[str, float] | None:
  """Returns the manifest's `held_out`; None also if it cannot be read."""
  try:
    return files.describe(checkpoint)[0].held_out
  except ValueError:  # Reading the checkpoint itself reports the error.
    return None


def is_finished(path: Path) -> bool:
  """Returns whether `path` is itself a checkpoint, complete on disk."""
  path = files.absolute(path)
  # Orbax's own check accepts any folder, as a checkpoint of its older layout.
  return (path / files.METADATA).exists() and ocp.is_orbax_checkpoint(path)


def _stoppable(
  stopped: threading.Event, leaf: streaming.Leaf
) -> streaming.Leaf:
  """Returns a leaf that can no longer be read once `stopped` is set."""

  def read(region):
    if stopped.is_set():
      raise InterruptedError
    return leaf.read(region)

  return dataclasses.replace(leaf, read=read)
