"""What an export says of itself: the checkpoint's manifest, its files' hashes.

config.json cannot say what an export was made from, nor how long a context a
model without positions was trained at. drope_manifest.json can, and what is
converted back goes on with it.
"""

from collections.abc import Mapping
import hashlib
import pathlib

from etils import epath

from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.data import json_object
from drope_jax.data import tokenizer as tokenizers

FILENAME = "drope_manifest.json"
README = "README.md"
_HASHES = "sha256"


def write(folder: pathlib.Path, manifest: Manifest) -> None:
  """Writes the manifest, with a hash of each file that `folder` has by now.

  All but the README, which is there to be edited.
  """
  hashes = {
    path.relative_to(folder).as_posix(): _hash(path)
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != README
  }
  data = manifest.to_json() | {_HASHES: hashes}
  json_object.write(folder / FILENAME, data)


def read(folder: pathlib.Path) -> Manifest | None:
  """Returns the manifest in a folder whose files are as they were written.

  None where there is no manifest. One without hashes, of an older export, has
  the tokenizer's at least.

  Raises:
    ValueError: it is no manifest; a file is missing or was changed.
  """
  path = folder / FILENAME
  if not path.exists():
    return None
  data = json_object.read(path)
  hashes = data.pop(_HASHES, None)
  try:
    manifest = Manifest.from_json(data)
    if hashes is None:
      hashes = _of_tokenizer(manifest)
    hashes = dict(hashes)
  except (ValueError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{path} must be a checkpoint's manifest, got {error} Remove it to do "
      "without its lineage."
    ) from error
  _require_same(folder, hashes)
  return manifest


def _of_tokenizer(manifest: Manifest) -> Mapping[str, str]:
  if manifest.tokenizer is None:
    return {}
  suffix = pathlib.PurePath(manifest.tokenizer.filename).suffix
  return {f"tokenizer{suffix}": manifest.tokenizer.fingerprint}


def _require_same(folder: pathlib.Path, hashes: Mapping[str, str]) -> None:
  changed = [
    name
    for name, saved in hashes.items()
    if not (folder / name).is_file() or _hash(folder / name) != saved
  ]
  if changed:
    raise ValueError(
      f"An export's files must be as they were written, got "
      f"{tensors_lib.listed(changed)} in {folder} missing or changed. Copy "
      f"them again; if they were changed on purpose, remove {FILENAME}, and "
      f"with it the lineage, or their lines under {_HASHES!r} there."
    )


def _hash(path: pathlib.Path) -> str:
  if path.name == "tokenizer.json":
    # As the manifest's of the tokenizer.
    return hashlib.sha256(tokenizers.contents(epath.Path(path))).hexdigest()
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
