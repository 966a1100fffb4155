"""Records of JSON that a run wrote, and how they are read; without jax."""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from etils import epath

METRICS = "metrics.jsonl"

Log = tuple[Mapping[str, Any], ...]
"""Records of a metrics.jsonl, by rising step."""


def read_metrics(
  directory: str | os.PathLike, fields: Sequence[str] = ("step",)
) -> list[dict[str, Any]]:
  """Returns the records of a folder's metrics.jsonl, by rising step.

  A line stands for all before it whose step is not smaller: a run that resumed
  logged these again. A line that a crash cut short is none.

  Args:
    directory: a run's; without the file, there are no records.
    fields: what each record has.

  Raises:
    ValueError: a line is not such a record; it is named.
  """
  return read(epath.Path(directory) / METRICS, fields)


def read(path: epath.Path, fields: Sequence[str]) -> list[dict[str, Any]]:
  """Returns the records of one metrics.jsonl, as `read_metrics`."""
  found = []
  lines = path.read_text().split("\n") if path.exists() else []
  for number, line in enumerate(lines, 1):
    # A whole one ends in its only closing brace.
    if not line.endswith("}"):
      continue
    where = f"{path}, line {number},"
    record = parse(line, where)
    require(record, fields, where)
    while found and found[-1]["step"] >= record["step"]:
      found.pop()
    found.append(record)
  return found


def require(record: Any, fields: Sequence[str], where: object) -> None:
  """Raises ValueError where a record has not all `fields`."""
  missing = [
    f for f in fields if not hasattr(record, "keys") or f not in record
  ]
  if missing:
    raise ValueError(
      f"{where} needs {', '.join(fields)}, got no {', '.join(missing)}. "
      "Make it anew with this version of drope_jax."
    )


def parse(text: str, where: object) -> Any:
  """Returns what JSON text of a file says.

  Raises:
    ValueError: it is none; `where` names it.
  """
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{where} must be JSON, got something else ({error}). It may have been "
      "cut short: run its command again, or remove it."
    ) from error
