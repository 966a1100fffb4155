"""Reading the JSON records of a run; without jax."""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from etils import epath

METRICS = "metrics.jsonl"

LOGGED = ("step", "phase", "tokens", "loss")
"""Fields of every record of a training."""

Log = tuple[Mapping[str, Any], ...]
"""Records of a metrics.jsonl, by increasing step."""


def read_metrics(
  directory: str | os.PathLike, fields: Sequence[str] = ("step",)
) -> list[dict[str, Any]]:
  """Returns the records of a folder's metrics.jsonl, by increasing step.

  A line replaces earlier lines of the same or a later step, which a resumed run
  has logged again. A line that a crash truncated is skipped.

  Args:
    directory: of a run; without the file, there are no records.
    fields: required in each record.

  Raises:
    ValueError: naming a line that is not such a record.
  """
  return read(epath.Path(directory) / METRICS, fields)


def read(path: epath.Path, fields: Sequence[str]) -> list[dict[str, Any]]:
  """Returns the records of one metrics.jsonl; see `read_metrics`."""
  records: list[dict[str, Any]] = []
  lines = path.read_text().split("\n") if path.exists() else []
  for number, line in enumerate(lines, 1):
    # A complete line ends in its only closing brace.
    if not line.endswith("}"):
      continue
    where = f"{path}, line {number},"
    record = parse(line, where)
    require(record, fields, where)
    while records and records[-1]["step"] >= record["step"]:
      records.pop()
    records.append(record)
  return records


def scores(
  log: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], dict[str, list[tuple[float, float]]]]:
  """Returns a log's scores of evals: (tokens, value) by metric and by length.

  A name such as "multi_key.accuracy.2x.crop", as `evals.periodic` writes it, is
  "2×, crop" of ("multi_key", "accuracy").
  """
  series: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
  for record in log:
    for name, value in record.items():
      task, _, rest = name.partition(".")
      metric, _, where = rest.partition(".")
      if not where or value is None:
        continue
      length, x, others = where.partition("x")
      line = length + x.replace("x", "×") + others.replace(".", ", ")
      of_metric = series.setdefault((task, metric), {})
      of_metric.setdefault(line, []).append((record["tokens"], value))
  return series


def require(record: Any, fields: Sequence[str], where: object) -> None:
  """Raises ValueError if a record does not have all `fields`."""
  missing = [
    f for f in fields if not hasattr(record, "keys") or f not in record
  ]
  if missing:
    raise ValueError(
      f"{where} needs {', '.join(fields)}, got no {', '.join(missing)}. "
      "Create it again with this version of drope_jax."
    )


def parse(text: str, where: object) -> Any:
  """Returns the value of a JSON text.

  Raises:
    ValueError: it is not JSON; the message names `where`.
  """
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{where} must be JSON, got something else ({error}). It may be "
      "truncated: run its command again, or delete it."
    ) from error
