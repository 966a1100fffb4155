"""Checkpoints on disk or in a bucket, through Orbax's v1 API.

Every checkpoint is one Orbax directory that stands by itself:

    params/                   the parameter tree
    rest/                     the other training state; in a run's steps only
    tokenizer/FILE            a copy of the tokenizer's file
    _CHECKPOINT_METADATA      holds the manifest, and checksums

`save_model` writes one; a `RunStore` writes one per saved step, `RUN/1000`, of
which `RUN` means the newest and `RUN/best` that of the least held-out loss.
Orbax writes under a temporary name and renames, or commits by a marker in a
bucket: whatever was interrupted is never taken for a checkpoint. In a program
of many processes each must call each function here.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import errno
import glob
import json
import os
import pathlib
import threading
import time
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from drope_jax import trees
from drope_jax.checkpoint import checksums, streaming, tokenizer_file
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.data import paths
from drope_jax.model import transformer

Path = str | os.PathLike

_PARAMS, _REST, _TOKENIZER = "params", "rest", "tokenizer"
_MANIFEST, _CHECKSUMS = "manifest", "checksums"
_BEST = "best"
_METADATA = "_CHECKPOINT_METADATA"
TEMPORARY = ".orbax-checkpoint-tmp"
"""In the name of a checkpoint that is being written, or never was finished."""
_CONCURRENT_BYTES = 8 * 2**30
"""In flight per host beyond the arrays themselves; Orbax knows no bound."""
_QUIET_S = 1.0
"""How long nothing must appear before an interrupted save counts as ended."""


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
  items = _items({_PARAMS: params}, manifest, tokenizer_path)
  metadata = _metadata(manifest, {_PARAMS: params})
  _save(directory, items, metadata, _context())


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
  items = _items({_PARAMS: tree}, manifest, tokenizer_path)
  directory = _absolute(directory)
  replaced = directory.parent / f"{directory.name}.replaced"
  if replaces:
    require_new(replaced)
    directory.rename(replaced)
  try:
    context = _context(streaming.Handler)
    # Its chunks have checksums of their own.
    _save(directory, items, _metadata(manifest), context, stopped.set)
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
  directory = _absolute(directory)
  if directory.exists() and not _is_cut_off(directory):
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
  manifest, stored, saved = _describe(checkpoint)
  trees.require_same_leaves(
    transformer.param_shapes(manifest.model), stored, f"{checkpoint}"
  )
  if shardings is None:
    shardings = jax.tree.map(lambda _: _first_device(), stored)
  abstract = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, dtype or leaf.dtype, sharding=sharding
    ),
    stored,
    shardings,
  )
  with _context(), _reading(checkpoint):
    params = ocp.load(checkpoint, abstract, checkpointable_name=_PARAMS)
    _check({_PARAMS: params}, saved)
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
  checkpoint = _absolute(checkpoint)
  saved = _describe(checkpoint)[2]
  abstract = trees.unflatten({path: _abstract(leaf)})
  context = _context()
  context.pytree.loading.partial_load = True
  with context, _reading(checkpoint):
    tree = ocp.load(checkpoint, abstract, checkpointable_name=_PARAMS)
    _check({_PARAMS: tree}, saved)
  return trees.flatten(tree)[path]


def describe(path: Path) -> tuple[Manifest, Any]:
  """Returns the manifest and each parameter's stored shape and dtype.

  Reads no array. Raises as `load_model` does, but checks no schema.
  """
  return _describe(locate(path))[:2]


def _describe(checkpoint, remedy=None):
  """Returns also the checksums; none where it is older than they are."""
  with _context(), _reading(checkpoint, remedy):
    json.loads((checkpoint / _METADATA).read_text())  # Orbax would go on.
    metadata = ocp.metadata(checkpoint, checkpointable_name=_PARAMS)
    if metadata.metadata is None:  # Orbax has logged why.
      raise ValueError(f"{_PARAMS} has no readable metadata")
    custom = metadata.custom_metadata or {}
    data, saved = custom.get(_MANIFEST), custom.get(_CHECKSUMS, {})
    if data is None:
      raise ValueError(f"{_METADATA} holds no {_MANIFEST}")
    checksums.require_same({_MANIFEST: checksums.of_json(data)}, saved)
    shapes = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
      metadata.metadata,
    )
  try:
    return Manifest.from_json(data), shapes, saved
  except ValueError as error:
    raise ValueError(f"{checkpoint}: {error}") from error


def locate(path: Path) -> epath.Path:
  """Returns the checkpoint that `path` means.

  Args:
    path: a checkpoint, a run (its newest step), or RUN/best (that of the least
      held-out loss which is kept, in the phase of the newest that has one).

  Raises:
    FileNotFoundError: neither a finished checkpoint nor a run that has one.
  """
  path = _absolute(path)
  if is_finished(path):
    return path
  if path.name == _BEST and (steps := finished_steps(path.parent)):
    best = _best({step: _held_out(path.parent / str(step)) for step in steps})
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
  run = _absolute(run)
  names = [p.name for p in run.iterdir()] if run.is_dir() else []
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
  run = _absolute(run)
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
  file = checkpoint / _TOKENIZER / tokenizer.filename
  tokenizer_file.checked(file, tokenizer)
  return file


class RunStore:
  """The checkpoints of a run: saved in the background, some of them kept.

  Use as a context manager, or call `close`; a save is only certain after
  `wait` or `close`. Opening one removes what interrupted saves left behind.
  """

  def __init__(
    self,
    directory: Path,
    keep: int = 2,
    keep_every_steps: int | None = None,
    tokenizer_path: Path | None = None,
  ):
    """Opens, or creates, the run at `directory`.

    Args:
      directory: holds one folder a step; other names in it are left alone.
      keep: how many of the newest steps stay on disk, beside RUN/best.
      keep_every_steps: those at its multiples stay too; None: no more.
      tokenizer_path: copied into each step; see `save_model`.
    """
    if keep < 1:
      raise ValueError(
        f"RunStore must keep 1 step or more to resume from, got {keep}. "
        "Raise keep."
      )
    policies = ocp.training.preservation_policies
    self.directory = _absolute(directory)
    self._tokenizer_path = tokenizer_path
    steps = finished_steps(self.directory)
    self._held_out = {s: _held_out(self.directory / str(s)) for s in steps}
    kept = [policies.LatestN(keep), _KeepBest(self._held_out)]
    if keep_every_steps is not None:
      kept.append(policies.EveryNSteps(keep_every_steps))
    self._checkpointer = ocp.training.Checkpointer(
      self.directory,
      context=_context(),
      preservation_policy=policies.AnyPreservationPolicy(kept),
      cleanup_tmp_directories=True,
    )
    self._latest_step = max(steps, default=None)

  def save(
    self, step: int, state: Mapping[str, Any], manifest: Manifest
  ) -> None:
    """Starts to save `state`, after the save before it is complete.

    The arrays are copied off the device before this returns, so the caller
    may donate or overwrite them.

    Args:
      step: later than every saved one.
      state: pytree of arrays, a mapping with the model under "params".
      manifest: as of this step.

    Raises:
      ValueError: `step` is not later; params do not match `manifest.model`; the
        tokenizer file does not match `manifest.tokenizer`.
    """
    latest = self._latest_step
    if latest is not None and step <= latest:
      raise ValueError(
        f"A saved step must come after {latest}, the newest in "
        f"{self.directory}, got {step}. Restore it, or use another directory."
      )
    rest = {key: value for key, value in state.items() if key != _PARAMS}
    items = {_PARAMS: state[_PARAMS]} | ({_REST: rest} if rest else {})
    self._held_out[step] = manifest.held_out
    self._checkpointer.save_checkpointables_async(
      step,
      _items(items, manifest, self._tokenizer_path),
      force=True,  # Orbax would skip a save while another is under way.
      overwrite=True,  # Only what is not finished can be in the way.
      custom_metadata=_metadata(manifest, state),
    )
    self._latest_step = step

  def latest_step(self) -> int | None:
    """Returns the newest step saved or being saved; None if there is none."""
    return self._latest_step

  def restore(
    self, abstract_state: Mapping[str, Any], step: int | None = None
  ) -> tuple[dict[str, Any], Manifest]:
    """Returns a saved state, bit for bit, and its manifest.

    Args:
      abstract_state: like the saved state; leaves are arrays or
        `ShapeDtypeStruct`, whose shardings say where to put what is read (the
        first local device where there is none). Another dtype is cast to.
      step: None for the newest.

    Raises:
      FileNotFoundError: nothing saved, or not that step.
      ValueError: damaged, or `abstract_state` is not like what was saved.
    """
    self.wait()
    path = locate(
      self.directory if step is None else self.directory / str(step)
    )
    remedy = "Copy it again, resume with the recipe that wrote it"
    if earlier := [
      s for s in finished_steps(path.parent) if s < int(path.name)
    ]:
      remedy += f", or go back with --from-step {earlier[-1]}"
    manifest, _, saved = _describe(path, f"{remedy}.")
    abstract = jax.tree.map(_abstract, dict(abstract_state))
    params = abstract.pop(_PARAMS)
    items = {_PARAMS: params} | ({_REST: abstract} if abstract else {})
    with _context(), _reading(path, f"{remedy}."):
      loaded = ocp.load_checkpointables(path, items)
      state = {_PARAMS: loaded[_PARAMS]} | loaded.get(_REST, {})
      _check(state, saved)
    return state, manifest

  def wait(self) -> None:
    """Returns once what was saved is complete; raises what went wrong."""
    self._checkpointer.wait()

  def close(self) -> None:
    """Waits, then frees the background threads."""
    self._checkpointer.close()

  def __enter__(self) -> "RunStore":
    return self

  def __exit__(self, *_) -> None:
    self.close()


@dataclasses.dataclass(frozen=True)
class _KeepBest:
  """Orbax's policy of keeping the step that RUN/best means."""

  held_out: Mapping[int, tuple[str, float] | None]

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    steps = [checkpoint.step for checkpoint in checkpoints]
    best = _best({step: self.held_out[step] for step in steps})
    return [step == best for step in steps]


def _best(held_out):
  """Returns the step of the least loss in the newest phase that has one."""
  known = {step: found for step, found in held_out.items() if found is not None}
  if not known:
    return None
  newest = known[max(known)][0]
  return min(
    (loss, step) for step, (phase, loss) in known.items() if phase == newest
  )[1]


def _held_out(checkpoint):
  try:
    return _describe(checkpoint)[0].held_out
  except ValueError:  # Damaged: who reads it is told.
    return None


def _save(directory, items, metadata, context, stop=None):
  """Writes a new checkpoint; one that fails or is interrupted is removed.

  It may be large, and may have filled the disk. `stop` makes the writing of
  `items` end soon, and all of it; Orbax's own handlers know no such thing.
  """
  saving = None
  try:
    _remove_begun(directory, 0)
    with context:
      saving = ocp.save_checkpointables_async(
        directory, items, custom_metadata=metadata
      )
      saving.result()
  except BaseException as error:
    if isinstance(error, FileNotFoundError) and paths.in_bucket(directory):
      raise ValueError(
        f"A bucket that exists is needed, got {directory}. Create it, or check "
        "its name."
      ) from error
    if saving is not None:
      if stop is not None:
        stop()
      # Its threads write on, after Ctrl-C, and then give it its last name.
      with contextlib.suppress(Exception):
        saving.result()
    _remove_begun(directory, 0 if stop is not None else _QUIET_S)
    raise


def _is_cut_off(directory):
  """Whether a save to a bucket was killed here, before its last two files."""
  if not paths.in_bucket(directory):
    return False
  names = {path.name for path in directory.iterdir()}
  return names <= {_PARAMS, _TOKENIZER, "orbax.checkpoint"} and (
    (directory / _PARAMS / "manifest.ocdbt").exists()
  )


def _remove_begun(directory, quiet_s):
  """Removes a checkpoint, by either name, until none appears for `quiet_s`.

  Where one array cannot be written, Orbax raises while others still are.
  """
  temporary = f"{glob.escape(directory.name)}{TEMPORARY}*"
  gone_since = time.monotonic()
  while True:
    begun = list(directory.parent.glob(temporary))
    if directory.exists():
      begun.append(directory)
    for path in begun:
      try:
        path.rmtree()
      except FileNotFoundError:
        pass
      except OSError as error:
        if error.errno != errno.ENOTEMPTY:
          raise
    now = time.monotonic()
    if begun:
      gone_since = now
    elif now - gone_since >= quiet_s:
      return
    time.sleep(0.05)


def _until(stopped: threading.Event, leaf: streaming.Leaf) -> streaming.Leaf:
  """Returns a leaf that cannot be read once `stopped` is set."""

  def read(region):
    if stopped.is_set():
      raise InterruptedError
    return leaf.read(region)

  return dataclasses.replace(leaf, read=read)


def _items(arrays, manifest, tokenizer_path):
  """Checks everything that goes into a checkpoint; returns it by name."""
  trees.require_same_leaves(
    transformer.param_shapes(manifest.model), arrays[_PARAMS], "this checkpoint"
  )
  if (manifest.tokenizer is None) != (tokenizer_path is None):
    raise ValueError(
      "A manifest's tokenizer and its file come together, got "
      f"{manifest.tokenizer} and {tokenizer_path}. Pass both or neither."
    )
  if tokenizer_path is None:
    return arrays
  files = tokenizer_file.collect(_absolute(tokenizer_path), manifest.tokenizer)
  return arrays | {_TOKENIZER: files}


def _metadata(manifest, arrays=None):
  """Returns what lies beside a checkpoint's items."""
  data = manifest.to_json()
  found = checksums.of_arrays(arrays) if arrays is not None else {}
  return {
    _MANIFEST: data,
    _CHECKSUMS: found | {_MANIFEST: checksums.of_json(data)},
  }


def _check(arrays, saved):
  if saved:
    checksums.require_same(checksums.of_arrays(arrays), saved)


@contextlib.contextmanager
def _reading(path: epath.Path, remedy: str | None = None) -> Iterator[None]:
  """Turns what Orbax and TensorStore raise into one line that names `path`."""
  try:
    yield
  except (MemoryError, RuntimeError):  # The machine's fault, not the files'.
    raise
  except Exception as error:  # TensorStore's read errors have no other type.
    cause = str(error).split("\n")[0].split(". See")[0][:200]
    raise ValueError(
      f"A whole checkpoint of the form asked for is needed, got {path}, which "
      f"cannot be read ({type(error).__name__}: {cause}). "
      f"{remedy or 'Copy it again, or take another step.'}"
    ) from error


def _abstract(leaf):
  return jax.ShapeDtypeStruct(
    leaf.shape,
    leaf.dtype,
    sharding=getattr(leaf, "sharding", None) or _first_device(),
  )


def _first_device():
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _context(
  params_handler: type = ocp.handlers.PyTreeHandler,
) -> ocp.Context:
  context = ocp.Context()
  registry = ocp.handlers.local_registry()
  # A checkpoint names the handler that wrote it; Orbax's reads all.
  registry.add(
    params_handler,
    checkpointable_name=_PARAMS,
    secondary_typestrs=[streaming.HANDLER_NAME],
  )
  context.checkpointables.registry = registry
  # Else a folder that cannot be made leaves Orbax's threads waiting for it.
  context.asynchronous.create_directories_asynchronously = False
  context.memory.write_concurrent_bytes = _CONCURRENT_BYTES
  context.memory.read_concurrent_bytes = _CONCURRENT_BYTES
  return context


def is_finished(path: Path) -> bool:
  """Returns whether `path` is itself a checkpoint, complete on disk."""
  path = _absolute(path)
  # Orbax alone also takes any folder for a checkpoint of its older layout.
  return (path / _METADATA).exists() and ocp.is_orbax_checkpoint(path)


def _absolute(path: Path) -> epath.Path:
  path = epath.Path(path)
  if paths.in_bucket(path):  # epath takes its name for a relative path.
    return path
  return path.expanduser().absolute()
