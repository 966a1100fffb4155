"""Writing a file completely or not at all."""

import os

from etils import epath

from drope_jax.data import paths


def write(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file; until it is complete, the old one or none is there.

  Args:
    path: local, or gs://; its folder must exist.
    content: of the file.
  """
  path = epath.Path(path)
  # A bucket's object appears complete, and renaming it would copy it.
  if paths.in_bucket(path):
    path.write_bytes(content)
    return
  temporary = path.parent / f"{path.name}.tmp"
  temporary.write_bytes(content)
  temporary.replace(path)
