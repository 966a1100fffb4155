"""metrics.jsonl: one line every few steps, none twice."""

from collections.abc import Mapping
import json
import math
import os
from typing import Any

from etils import epath
import jax

FILENAME = "metrics.jsonl"


class MetricsLog:
  """Appends to a run's metrics.jsonl.

  A run that resumes at step s drops the lines after s, which it will write
  again: no step is ever logged twice. Of a run's processes the first alone
  writes. Use as a context manager.
  """

  def __init__(self, directory: os.PathLike, resume_step: int):
    self._file = None
    if jax.process_index() != 0:
      return
    path = epath.Path(directory) / FILENAME
    kept = [
      line
      for line in (path.read_text().splitlines() if path.exists() else [])
      if _step(line, resume_step + 1) <= resume_step
    ]
    # Written beside and renamed, so that a crash here loses nothing.
    whole = path.with_suffix(".tmp")
    whole.write_text("".join(line + "\n" for line in kept))
    whole.replace(path)
    self._file = path.open("a")

  def write(self, line: Mapping[str, Any]) -> None:
    """Appends one line; it has "step". What is not finite becomes null."""
    if self._file is None:
      return
    finite = {
      name: None if isinstance(x, float) and not math.isfinite(x) else x
      for name, x in line.items()
    }
    self._file.write(json.dumps(finite) + "\n")
    self._file.flush()

  def __enter__(self) -> "MetricsLog":
    return self

  def __exit__(self, *_) -> None:
    if self._file is not None:
      self._file.close()


def read(directory: os.PathLike) -> list[dict[str, Any]]:
  """Returns the lines of a run's metrics.jsonl, oldest first."""
  path = epath.Path(directory) / FILENAME
  return [json.loads(line) for line in path.read_text().splitlines()]


def _step(line: str, broken: int) -> int:
  try:
    return json.loads(line)["step"]
  except ValueError:  # The line that was being written when the run died.
    return broken
