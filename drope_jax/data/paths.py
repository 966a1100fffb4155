"""Paths of recipes and command lines: local, in a bucket, or packaged."""

import importlib.resources
import os
import pathlib
import re

from etils import epath

PACKAGED = "packaged:"


def in_bucket(path: str | os.PathLike) -> bool:
  """Returns whether `path` is gs://BUCKET/...; otherwise it is local.

  Raises:
    ValueError: another URL scheme, or no bucket.
  """
  path = os.fspath(path)
  if "://" in path and not re.match("gs://[^/]", path):
    raise ValueError(
      f"A path must be local or gs://BUCKET/..., got {path}. Use one of these."
    )
  return "://" in path


def local(path: str, what: str) -> pathlib.Path:
  """Returns a local path with ~ expanded; `what` names it in the error.

  Raises:
    ValueError: it is empty, or in a bucket.
  """
  require_named(path)
  if in_bucket(path):
    raise ValueError(
      f"{what} must be local, got {path}. Use a local path; `gcloud storage "
      "cp -r` copies from a bucket."
    )
  return pathlib.Path(path).expanduser()


def output(path: str | os.PathLike) -> epath.Path:
  """Returns `resolve(path)`, where something is to be written.

  Raises:
    ValueError: it is empty, or in the installed package.
  """
  if (text := os.fspath(path)).startswith(PACKAGED):
    raise ValueError(
      f"The installed package is not written to, got {text}. Name another "
      "folder."
    )
  return resolve(text)


def require_named(path: str) -> None:
  """Raises ValueError where a path is empty, as of an unset shell variable."""
  if not path:
    raise ValueError("A path is needed, got an empty text. Name a path.")


def require_folder(path: epath.Path | pathlib.Path) -> None:
  """Raises NotADirectoryError where there is a file in a folder's place."""
  if path.exists() and not path.is_dir():
    raise NotADirectoryError(
      f"--out must be a folder, got the file {path}. Choose another --out."
    )


def kvstore(folder: epath.Path) -> dict[str, str]:
  """Returns the TensorStore spec of a folder, local or in a bucket."""
  if in_bucket(folder):
    bucket, _, inner = str(folder).removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": f"{inner}/"}
  return {"driver": "file", "path": f"{folder.resolve()}/"}


def resolve(path: str, base_dir: str | None = None) -> epath.Path:
  """Returns `path`, ~ expanded; a relative one is joined to `base_dir`.

  "packaged:NAME" is a file or folder of the installed package, for example
  packaged:checkpoints/demo_base. The package must be installed as files, not
  imported from a zip archive.

  Raises:
    ValueError: it is empty.
  """
  require_named(path)
  if path.startswith(PACKAGED):
    assets = importlib.resources.files("drope_jax") / "assets"
    return epath.Path(str(assets / path.removeprefix(PACKAGED)))
  if "://" in path:
    return epath.Path(path)
  found = epath.Path(path).expanduser()
  return found if base_dir is None else epath.Path(base_dir) / found
