"""Reading and writing a checkpoint's files with Orbax."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import errno
import glob
import json
import os
import time
from typing import Any

from etils import epath
import jax
from orbax.checkpoint import v1 as ocp

from drope_jax import trees
from drope_jax.checkpoint import checksums, streaming, tokenizer_file
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.data import paths, whole_file
from drope_jax.model import transformer

Path = str | os.PathLike
Checksums = Mapping[str, str]
"""By path, as `checksums` makes them."""

PARAMS, REST, TOKENIZER = "params", "rest", "tokenizer"
METADATA = "_CHECKPOINT_METADATA"
TEMPORARY = ".orbax-checkpoint-tmp"
"""Part of the name of a checkpoint that is being written, or is unfinished."""
MANIFEST, _CHECKSUMS = "manifest", "checksums"
_CONCURRENT_BYTES = 8 * 2**30
"""Bytes in flight per host, besides the arrays; Orbax sets no limit itself."""
_QUIET_S = 1.0
"""How long no file may appear before an interrupted save counts as ended."""


def save(
  directory: epath.Path,
  items: Mapping[str, Any],
  metadata: Mapping[str, Any],
  context: ocp.Context,
  stop: Callable[[], None] | None = None,
) -> None:
  """Writes a new checkpoint; removes it if that fails or is interrupted.

  An unfinished checkpoint can be large, and may have filled the disk. `stop`
  makes the handler of `items` end soon, which Orbax's own handlers cannot.
  """
  saving = None
  try:
    _remove_unfinished(directory, 0)
    with context:
      saving = ocp.save_checkpointables_async(
        directory, items, custom_metadata=metadata
      )
      saving.result()
  except BaseException as error:
    if isinstance(error, FileNotFoundError) and paths.in_bucket(directory):
      raise ValueError(
        f"The bucket must exist, got {directory}. Create it, or check its name."
      ) from error
    if saving is not None:
      if stop is not None:
        stop()
      # After Ctrl-C Orbax's threads continue, and then rename the directory.
      with contextlib.suppress(Exception):
        saving.result()
    _remove_unfinished(directory, 0 if stop is not None else _QUIET_S)
    raise


def describe(
  checkpoint: epath.Path, remedy: str | None = None
) -> tuple[Manifest, Any, Checksums]:
  """Returns the manifest, each parameter's shape and dtype, and the checksums.

  Checkpoints of early versions have no checksums.

  Args:
    checkpoint: as `store.locate` returns it.
    remedy: what to do if it is damaged; None for the usual advice.

  Raises:
    ValueError: it is damaged, or a later version wrote it.
  """
  data, shapes, saved = read_stored(checkpoint, remedy)
  try:
    return Manifest.from_json(data), shapes, saved
  except ValueError as error:
    raise ValueError(f"{checkpoint}: {error}") from error


def read_stored(
  checkpoint: epath.Path, remedy: str | None = None
) -> tuple[dict[str, Any], Any, Checksums]:
  """Returns the same as `describe`, but the manifest as its JSON data.

  Raises:
    ValueError: the checkpoint is damaged.
  """
  with context(), reading(checkpoint, remedy):
    json.loads((checkpoint / METADATA).read_text())  # Orbax ignores damage.
    found = ocp.metadata(checkpoint, checkpointable_name=PARAMS)
    if found.metadata is None:  # Orbax has logged why.
      raise ValueError(f"{PARAMS} has no readable metadata")
    custom = found.custom_metadata or {}
    data, saved = custom.get(MANIFEST), custom.get(_CHECKSUMS, {})
    if data is None:
      raise ValueError(f"{METADATA} holds no {MANIFEST}")
    checksums.require_same({MANIFEST: checksums.of_json(data)}, saved)
    shapes = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
      found.metadata,
    )
  return data, shapes, saved


def items(
  arrays: dict[str, Any], manifest: Manifest, tokenizer_path: Path | None
) -> dict[str, Any]:
  """Returns everything that goes into a checkpoint, by name, after checks."""
  trees.require_same_leaves(
    transformer.param_shapes(manifest.model), arrays[PARAMS], "this checkpoint"
  )
  if (manifest.tokenizer is None) != (tokenizer_path is None):
    raise ValueError(
      "A manifest needs its tokenizer's file, and a file its manifest, got "
      f"{manifest.tokenizer} and {tokenizer_path}. Pass both or neither."
    )
  if tokenizer_path is None or manifest.tokenizer is None:
    return arrays
  files = tokenizer_file.collect(absolute(tokenizer_path), manifest.tokenizer)
  return arrays | {TOKENIZER: files}


def metadata(manifest: Manifest, arrays: Any = None) -> dict[str, Any]:
  """Returns the custom metadata of a checkpoint: manifest and checksums."""
  data = manifest.to_json()
  found = checksums.of_arrays(arrays) if arrays is not None else {}
  return {
    MANIFEST: data,
    _CHECKSUMS: found | {MANIFEST: checksums.of_json(data)},
  }


def replace_manifest(checkpoint: epath.Path, manifest: Manifest) -> None:
  """Writes another manifest into a checkpoint, completely or not at all."""
  file = checkpoint / METADATA
  content = json.loads(file.read_text())
  written = metadata(manifest)
  saved = content["custom_metadata"].get(_CHECKSUMS, {})
  written[_CHECKSUMS] = saved | written[_CHECKSUMS]
  content["custom_metadata"] |= written
  whole_file.write(file, json.dumps(content).encode())


def check(arrays: Any, saved: Checksums) -> None:
  """Raises ValueError, naming the arrays, if they differ from those `saved`."""
  if saved:
    checksums.require_same(checksums.of_arrays(arrays), saved)


@contextlib.contextmanager
def reading(path: epath.Path, remedy: str | None = None) -> Iterator[None]:
  """Turns errors of Orbax and TensorStore into one line that names `path`."""
  try:
    yield
  except (MemoryError, RuntimeError):  # The machine's fault, not the file's.
    raise
  except Exception as error:  # TensorStore's read errors have no other type.
    cause = str(error).split("\n")[0].split(". See")[0][:200]
    raise ValueError(
      f"A complete checkpoint with the expected arrays is needed, got {path}, "
      f"which cannot be read ({type(error).__name__}: {cause}). "
      f"{remedy or 'Copy it again, or use another step.'}"
    ) from error


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  """Returns how to read a leaf: with its sharding, or onto the first device."""
  return jax.ShapeDtypeStruct(
    leaf.shape,
    leaf.dtype,
    sharding=getattr(leaf, "sharding", None) or first_device(),
  )


def first_device() -> jax.sharding.Sharding:
  """Returns the sharding of an array on the first local device."""
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def context(
  params_handler: type = ocp.handlers.PyTreeHandler,
) -> ocp.Context:
  """Returns the Orbax settings for all reading and writing."""
  made = ocp.Context()
  registry = ocp.handlers.local_registry()
  # A checkpoint names the handler that wrote it; Orbax's own reads them all.
  registry.add(
    params_handler,
    checkpointable_name=PARAMS,
    secondary_typestrs=[streaming.HANDLER_NAME],
  )
  made.checkpointables.registry = registry
  # Without this, Orbax's threads wait forever for a folder they cannot create.
  made.asynchronous.create_directories_asynchronously = False
  made.memory.write_concurrent_bytes = _CONCURRENT_BYTES
  made.memory.read_concurrent_bytes = _CONCURRENT_BYTES
  return made


def absolute(path: Path) -> epath.Path:
  """Returns the absolute path; a path in a bucket is returned unchanged."""
  path = epath.Path(path)
  if paths.in_bucket(path):  # epath takes a bucket's path for a relative one.
    return path
  return path.expanduser().absolute()


def is_interrupted(directory: epath.Path) -> bool:
  """Returns whether a save to a bucket ended here before its last two files."""
  if not paths.in_bucket(directory):
    return False
  names = {path.name for path in directory.iterdir()}
  return names <= {PARAMS, TOKENIZER, "orbax.checkpoint"} and (
    (directory / PARAMS / "manifest.ocdbt").exists()
  )


def _remove_unfinished(directory: epath.Path, quiet_s: float) -> None:
  """Removes a checkpoint, by either name, until none appears for `quiet_s`.

  If one array cannot be written, Orbax raises while others are being written.
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
