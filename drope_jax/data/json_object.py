"""Small JSON files that hold one object, for example a model's config.json."""

from collections.abc import Mapping
import json
import os
from typing import Any

from etils import epath

MOST_BYTES = 64 * 2**20
"""Limit of a file that is read; parsed JSON takes many times its size."""


def read(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the object in a file.

  Raises:
    ValueError: not JSON, not an object, or larger than `MOST_BYTES`.
  """
  path = epath.Path(path)
  if (size := path.stat().length) > MOST_BYTES:
    raise ValueError(
      f"{path} must be at most {MOST_BYTES} bytes, got {size}. Fetch it again."
    )
  try:
    data = json.loads(path.read_bytes().decode("utf-8"))
  except RecursionError as error:
    raise ValueError(
      f"{path} must be JSON that is not nested deeper than Python can parse, "
      "got deeper. Fetch it again."
    ) from error
  except ValueError as error:
    raise ValueError(
      f"{path} must be JSON, got {error}. Fetch it again."
    ) from error
  if not isinstance(data, dict):
    raise ValueError(
      f"{path} must be a JSON object, got {type(data).__name__}. Fetch it "
      "again."
    )
  return data


def read_if_there(path: str | os.PathLike) -> dict[str, Any]:
  """Returns `read(path)`, or {} if there is no such file."""
  return read(path) if epath.Path(path).exists() else {}


def write(path: str | os.PathLike, data: Mapping[str, Any]) -> None:
  """Writes an object, indented for human readers."""
  epath.Path(path).write_text(json.dumps(data, indent=2) + "\n")
