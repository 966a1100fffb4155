"""Where a path of a recipe or a command line leads."""

import importlib.resources
import os
import pathlib
import re

from etils import epath

PACKAGED = "packaged:"


def in_bucket(path: str | os.PathLike) -> bool:
  """Returns whether `path` is gs://BUCKET/..., not local.

  Raises:
    ValueError: another scheme, or no bucket.
  """
  path = os.fspath(path)
  if "://" in path and not re.match("gs://[^/]", path):
    raise ValueError(
      f"A path is local or gs://BUCKET/..., got {path}. Name one of these."
    )
  return "://" in path


def local(path: str, what: str) -> pathlib.Path:
  """Returns a local path, ~ expanded; `what` names it in the error.

  Raises:
    ValueError: it is in a bucket.
  """
  if in_bucket(path):
    raise ValueError(
      f"{what} must be local, got {path}. Name a local one; `gcloud storage cp "
      "-r` copies it."
    )
  return pathlib.Path(path).expanduser()


def kvstore(folder: epath.Path) -> dict[str, str]:
  """Returns what TensorStore calls a folder, local or in a bucket."""
  if in_bucket(folder):
    bucket, _, inner = str(folder).removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": f"{inner}/"}
  return {"driver": "file", "path": f"{folder.resolve()}/"}


def resolve(path: str, base_dir: str | None = None) -> epath.Path:
  """Returns `path`, a relative one from `base_dir` on.

  "packaged:NAME" is a file or folder that comes with the project, such as
  packaged:checkpoints/demo_base; it must lie in a real folder, as an installed
  package's files do.
  """
  if path.startswith(PACKAGED):
    assets = importlib.resources.files("drope_jax") / "assets"
    return epath.Path(str(assets / path.removeprefix(PACKAGED)))
  if base_dir is None or "://" in path:
    return epath.Path(path)
  return epath.Path(base_dir) / path
