"""Small JSON files, each of one object, that lie beside weights."""

from collections.abc import Mapping
import json
import os
from typing import Any

from etils import epath

MOST_BYTES = 64 * 2**20
"""Of a configuration or an index; parsed, JSON takes many times its bytes."""


def read(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the object in a file.

  Raises:
    ValueError: it holds no JSON, or no object, or more than `MOST_BYTES`.
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
      f"{path} must be JSON that is not nested deeper than Python reads, got "
      "more. Fetch it again."
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
  """Returns what `read` does; {} where there is no such file."""
  return read(path) if epath.Path(path).exists() else {}


def write(path: str | os.PathLike, data: Mapping[str, Any]) -> None:
  """Writes an object, to be read by people too."""
  epath.Path(path).write_text(json.dumps(data, indent=2) + "\n")
