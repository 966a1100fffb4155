"""metrics.jsonl: one line every few steps, appended."""

from collections.abc import Mapping
import json
import math
import os
import time
from typing import Any

from absl import logging
from etils import epath
import jax

from drope_jax import artifacts
from drope_jax.analysis import records
from drope_jax.data import paths

# A bucket takes about one write of an object a second.
_UPLOAD_EVERY_S = 30


class MetricsLog:
  """Appends to a run's metrics.jsonl; a context manager.

  A run that resumes logs some steps again, and readers of the file take the
  later lines. Only the first process of a run writes. Call `flush` before a
  save, so that no line before a saved step is lost.
  """

  def __init__(self, directory: os.PathLike):
    self._file = None
    if jax.process_index() != 0:
      return
    path = epath.Path(directory) / records.METRICS
    if paths.in_bucket(path):
      self._file = _Object(path)
    else:
      self._file = path.open("a")
      if _is_cut_short(path):
        self._file.write("\n")

  def write(self, line: Mapping[str, Any]) -> None:
    """Appends one line, which has "step". Values that are not finite are null.

    The line is in the file when this returns; in a bucket, half a minute later
    at most.
    """
    if self._file is None:
      return
    finite = artifacts.encode(line, finite=False)
    self._file.write(json.dumps(finite) + "\n")
    self._file.flush()

  def flush(self) -> None:
    """Returns once all lines are on disk, or in the bucket."""
    if isinstance(self._file, _Object):
      self._file.upload()
    elif self._file is not None:
      os.fsync(self._file.fileno())

  def __enter__(self) -> "MetricsLog":
    return self

  def __exit__(self, *_) -> None:
    if self._file is not None:
      self._file.close()


class _Object:
  """An object in a bucket, written anew as a whole each time.

  Nothing can be appended to an object; gcsfs would overwrite it.
  """

  def __init__(self, path: epath.Path):
    self._path = path
    self._text = path.read_text() if path.exists() else ""
    self._uploaded, self._uploaded_s = len(self._text), -math.inf

  def write(self, text: str) -> None:
    self._text += text

  def flush(self) -> None:
    if time.monotonic() - self._uploaded_s < _UPLOAD_EVERY_S:
      return
    try:
      self.upload()
    except Exception as error:  # Libraries of buckets have their own types.
      self._uploaded_s = time.monotonic()
      logging.warning("%s was not written, and will be: %s", self._path, error)

  def upload(self) -> None:
    if self._uploaded < len(self._text):
      self._path.write_text(self._text)
      self._uploaded = len(self._text)
      self._uploaded_s = time.monotonic()

  def close(self) -> None:
    self.upload()


def _is_cut_short(path: epath.Path) -> bool:
  """Returns whether the last line has no end, as after a crash."""
  with path.open("rb") as file:
    if not file.seek(0, os.SEEK_END):
      return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
