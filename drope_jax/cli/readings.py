"""samples.jsonl: what models have read of a step, a line a sample."""

import base64
from collections.abc import Mapping, Sequence
import json
import os
import pathlib
from typing import Any

import numpy as np

FILENAME = "samples.jsonl"


class Readings:
  """A `remembering.Memory` in a file beside results.json.

  Each batch is appended before the next one is read. Once the results of a step
  are written, `forget` removes its readings, unless all are kept.
  """

  def __init__(self, directory: pathlib.Path, keep: bool, evaluation: str):
    """Opens a folder's readings.

    Args:
      directory: of results.json.
      keep: whether every prompt and output stays in the file.
      evaluation: a digest of the models that read; lines of others are ignored.
    """
    self._path, self._keep = directory / FILENAME, keep
    self._evaluation = evaluation
    self._found: dict[str, Any] = {}

  @property
  def has_outputs(self) -> bool:
    """Whether there is a file, here or of a share.

    It stays only where all is kept.
    """
    shares = self._path.parent.glob(f"share_*/{FILENAME}")
    return self._path.exists() or any(shares)

  def load(self) -> None:
    """Reads the file; a line that a crash cut short is removed."""
    if not self._path.exists():
      return
    *lines, rest = self._path.read_bytes().split(b"\n")
    for line in map(json.loads, lines):
      if line.get("evaluation") == self._evaluation:
        self._found[line["key"]] = _decoded(line)
    if rest:
      with self._path.open("rb+") as file:
        file.truncate(self._path.stat().st_size - len(rest))

  def recall(self, key: str) -> Any | None:
    return self._found.get(key)

  def add(
    self, readings: Mapping[str, Any], about: Sequence[Mapping[str, Any]]
  ) -> None:
    self._found |= readings
    lines = [
      {
        "evaluation": self._evaluation,
        "key": key,
        **_encoded(reading),
        **(described if self._keep else {}),
      }
      for (key, reading), described in zip(readings.items(), about, strict=True)
    ]
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with self._path.open("a") as file:
      file.writelines(json.dumps(line) + "\n" for line in lines)
      file.flush()
      os.fsync(file.fileno())

  def forget(self) -> None:
    """Removes the readings of a step whose results are written."""
    if not self._keep:
      self._found.clear()
      self._path.unlink(missing_ok=True)


def _encoded(reading) -> dict[str, Any]:
  if isinstance(reading, np.ndarray):
    data = base64.b64encode(reading.tobytes()).decode()
    return {"dtype": str(reading.dtype), "log_p": data}
  return {"ids": list(map(int, reading))}


def _decoded(line: Mapping[str, Any]) -> Any:
  if "log_p" in line:
    data = base64.b64decode(line["log_p"])
    return np.frombuffer(data, line["dtype"])
  return line["ids"]
