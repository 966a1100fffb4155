"""A checkpoint's files, as Orbax writes and reads them."""

from collections.abc import Iterator
import contextlib
import errno
import glob
import json
import os
import time

from etils import epath
import jax
from orbax.checkpoint import v1 as ocp

from drope_jax import trees
from drope_jax.checkpoint import checksums, streaming, tokenizer_file
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.data import paths
from drope_jax.model import transformer

Path = str | os.PathLike

PARAMS, REST, TOKENIZER = "params", "rest", "tokenizer"
METADATA = "_CHECKPOINT_METADATA"
TEMPORARY = ".orbax-checkpoint-tmp"
"""In the name of a checkpoint that is being written, or never was finished."""
_MANIFEST, _CHECKSUMS = "manifest", "checksums"
_CONCURRENT_BYTES = 8 * 2**30
"""In flight per host beyond the arrays themselves; Orbax knows no bound."""
_QUIET_S = 1.0
"""How long nothing must appear before an interrupted save counts as ended."""


def save(directory, items, metadata, context, stop=None):
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


def describe(checkpoint, remedy=None):
  """Returns the manifest, each parameter's shape and dtype, and checksums.

  Of these none where the checkpoint is older than they are.

  Args:
    checkpoint: as `store.locate` returns it.
    remedy: what to do where it is damaged; None: the usual.

  Raises:
    ValueError: it is damaged, or of a later version.
  """
  data, shapes, saved = stored(checkpoint, remedy)
  try:
    return Manifest.from_json(data), shapes, saved
  except ValueError as error:
    raise ValueError(f"{checkpoint}: {error}") from error


def stored(checkpoint, remedy=None):
  """Returns what `describe` does, the manifest as the JSON that it is.

  Raises:
    ValueError: it is damaged.
  """
  with context(), reading(checkpoint, remedy):
    json.loads((checkpoint / METADATA).read_text())  # Orbax would go on.
    found = ocp.metadata(checkpoint, checkpointable_name=PARAMS)
    if found.metadata is None:  # Orbax has logged why.
      raise ValueError(f"{PARAMS} has no readable metadata")
    custom = found.custom_metadata or {}
    data, saved = custom.get(_MANIFEST), custom.get(_CHECKSUMS, {})
    if data is None:
      raise ValueError(f"{METADATA} holds no {_MANIFEST}")
    checksums.require_same({_MANIFEST: checksums.of_json(data)}, saved)
    shapes = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
      found.metadata,
    )
  return data, shapes, saved


def items(arrays, manifest, tokenizer_path):
  """Checks everything that goes into a checkpoint; returns it by name."""
  trees.require_same_leaves(
    transformer.param_shapes(manifest.model), arrays[PARAMS], "this checkpoint"
  )
  if (manifest.tokenizer is None) != (tokenizer_path is None):
    raise ValueError(
      "A manifest's tokenizer and its file come together, got "
      f"{manifest.tokenizer} and {tokenizer_path}. Pass both or neither."
    )
  if tokenizer_path is None:
    return arrays
  files = tokenizer_file.collect(absolute(tokenizer_path), manifest.tokenizer)
  return arrays | {TOKENIZER: files}


def metadata(manifest, arrays=None):
  """Returns what lies beside a checkpoint's items."""
  data = manifest.to_json()
  found = checksums.of_arrays(arrays) if arrays is not None else {}
  return {
    _MANIFEST: data,
    _CHECKSUMS: found | {_MANIFEST: checksums.of_json(data)},
  }


def check(arrays, saved):
  """Raises ValueError, naming them, where arrays are not those `saved`."""
  if saved:
    checksums.require_same(checksums.of_arrays(arrays), saved)


@contextlib.contextmanager
def reading(path: epath.Path, remedy: str | None = None) -> Iterator[None]:
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


def abstract(leaf):
  """Returns what to read a leaf as: where it lies, or the first device."""
  return jax.ShapeDtypeStruct(
    leaf.shape,
    leaf.dtype,
    sharding=getattr(leaf, "sharding", None) or first_device(),
  )


def first_device():
  """Returns the sharding of what lies on one device."""
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def context(
  params_handler: type = ocp.handlers.PyTreeHandler,
) -> ocp.Context:
  """Returns the settings under which everything is written and read."""
  made = ocp.Context()
  registry = ocp.handlers.local_registry()
  # A checkpoint names the handler that wrote it; Orbax's reads all.
  registry.add(
    params_handler,
    checkpointable_name=PARAMS,
    secondary_typestrs=[streaming.HANDLER_NAME],
  )
  made.checkpointables.registry = registry
  # Else a folder that cannot be made leaves Orbax's threads waiting for it.
  made.asynchronous.create_directories_asynchronously = False
  made.memory.write_concurrent_bytes = _CONCURRENT_BYTES
  made.memory.read_concurrent_bytes = _CONCURRENT_BYTES
  return made


def absolute(path: Path) -> epath.Path:
  """Returns the path from the root, in a bucket as it is."""
  path = epath.Path(path)
  if paths.in_bucket(path):  # epath takes its name for a relative path.
    return path
  return path.expanduser().absolute()


def is_cut_off(directory):
  """Whether a save to a bucket was killed here, before its last two files."""
  if not paths.in_bucket(directory):
    return False
  names = {path.name for path in directory.iterdir()}
  return names <= {PARAMS, TOKENIZER, "orbax.checkpoint"} and (
    (directory / PARAMS / "manifest.ocdbt").exists()
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
