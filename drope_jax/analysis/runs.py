"""What a run left behind for the report: logs, results, damage, samples."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from drope_jax import artifacts
from drope_jax.analysis import damage as damages
from drope_jax.evals.interface import Result
from drope_jax.evals.logit_scale import Fit
from drope_jax.evals.suite import Suite

METRICS = "metrics.jsonl"
HELD_OUT = "held_out.json"
_FILES = (METRICS, "results.json", "damage.json", "samples.json")
_LOGGED = ("step", "phase", "tokens", "loss")


Log = tuple[Mapping[str, Any], ...]
"""Records of a metrics.jsonl."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A run's files, each absent one empty or None.

  Attributes:
    name: what the run is called in plots.
    metrics: records of metrics.jsonl, as `read_metrics` returns them.
    results: results.json.
    damage: damage.json.
    samples: samples.json, a list of {"prompt", "text", "model", ...}.
    logs: of MODEL.metrics.jsonl, by model: how the results' models were
      trained, as `metrics` are.
    held_out: held_out.json: each model's loss on the text that logs have as
      `held_out_loss`.
  """

  name: str
  metrics: Log = ()
  results: Mapping[str, Any] | None = None
  damage: damages.Damage | None = None
  samples: tuple[Mapping[str, Any], ...] = ()
  logs: Mapping[str, Log] = dataclasses.field(default_factory=dict)
  held_out: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def rows(self) -> list[Mapping[str, Any]]:
    """The rows of results.json."""
    return self.results["rows"] if self.results else []

  def manifest(self, model: str) -> Mapping[str, Any]:
    """Returns the manifest of one of the results' models, {} if not there."""
    models = (self.results or {}).get("models", {})
    return models.get(model, {}).get("manifest") or {}


class Cell(NamedTuple):
  """What a score was measured on."""

  task: str
  metric: str
  model: str
  method: str
  factor: float
  scale_fitted: bool


class Score(NamedTuple):
  """A value and its 95% interval, over `seeds` seeds.

  Of several seeds the value is their mean, and the interval spans all theirs.

  Attributes:
    value, low, high: of the metric; no ends where no row has an interval.
    seeds: rows that were gathered.
    outcomes: each sample's own value, by the seed that drew the samples; of
      several rows with one seed, their mean.
  """

  value: float
  low: float | None
  high: float | None
  seeds: int
  outcomes: Mapping[int, Sequence[float]]


Scores = Mapping[Cell, Score]


def load(directory: str | os.PathLike) -> Run:
  """Returns what a run's folder holds.

  Raises:
    FileNotFoundError: there is no such folder, or none of the files in it.
    ValueError: a file is not what it should be; named, with its line.
  """
  folder = pathlib.Path(directory)
  found = [name for name in _FILES if (folder / name).is_file()]
  if not found:
    raise FileNotFoundError(
      f"A report needs a folder with one of {', '.join(_FILES)}, got "
      f"{folder}. Name the --out of a drope train, surgery, evaluate or demo."
    )
  results = folder / "results.json"
  results = load_results(results) if results.is_file() else None
  damage = _read(folder / "damage.json")
  return Run(
    name=folder.resolve().name,
    metrics=tuple(read_metrics(folder, _LOGGED)),
    results=results,
    damage=damage and damages.Damage.from_json(damage),
    samples=tuple(_read(folder / "samples.json") or ()),
    logs={
      path.name.removesuffix(f".{METRICS}"): tuple(_records(path, _LOGGED))
      for path in sorted(folder.glob(f"?*.{METRICS}"))
    },
    held_out=_read(folder / HELD_OUT) or {},
  )


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
  return _records(epath.Path(directory) / METRICS, fields)


def _records(path, fields):
  records = []
  lines = path.read_text().split("\n") if path.exists() else []
  for number, line in enumerate(lines, 1):
    # A whole one ends in its only closing brace.
    if not line.endswith("}"):
      continue
    where = f"{path}, line {number},"
    record = _parse(line, where)
    _require(record, fields, where)
    while records and records[-1]["step"] >= record["step"]:
      records.pop()
    records.append(record)
  return records


def load_results(path: pathlib.Path) -> Mapping[str, Any]:
  """Returns what a results.json holds, in the form of this version.

  Raises:
    ValueError: it is damaged, or of a later version.
  """
  results = _parse(path.read_text("utf-8"), path)
  _require(results, ("finished", "rows"), path)
  try:
    return _in_this_form(results)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _in_this_form(results):
  """Returns a results.json of any version as this one would have written it."""
  codes = results.get("code", [])
  results, written = artifacts.opened("Results", results, (codes or [None])[-1])
  results["rows"] = [
    artifacts.current(Result, row, written) for row in results["rows"]
  ]
  results["fits"] = {
    model: {
      method: artifacts.current(Fit, fit, written) for method, fit in by.items()
    }
    for model, by in results.get("fits", {}).items()
  }
  if "settings" in results:
    results["settings"] = artifacts.completed(
      results["settings"], Suite(), written
    )
  for model in results.get("models", {}).values():  # Files of their own.
    manifest, _ = artifacts.opened("Manifest", model["manifest"])
    model["manifest"] = {"schema_version": artifacts.VERSION} | manifest
  return results


def start_of(log: Log, phase: str) -> float | None:
  """Returns the log's tokens where a phase began, None if there is no such.

  Args:
    log: records by rising step.
    phase: its name, or what the names of its parts begin with.
  """
  inside = [record["phase"].startswith(phase) for record in log]
  if not any(inside):
    return None
  first = inside.index(True)
  if first:
    return log[first - 1]["tokens"]
  # The first phase logged may follow an imported model's: step back evenly.
  tokens = [record["tokens"] for record in log[:2]]
  return max(2 * tokens[0] - tokens[-1], 0)


def scores(rows: Iterable[Mapping[str, Any]]) -> Scores:
  """Returns the rows of results.json by cell, seeds gathered."""
  by_cell: dict[Cell, list[Mapping[str, Any]]] = {}
  for row in rows:
    cell = Cell(*(row[field] for field in Cell._fields))
    by_cell.setdefault(cell, []).append(row)
  return {cell: _gather(group) for cell, group in by_cell.items()}


def _gather(rows):
  ends = [
    row[side]
    for row in rows
    for side in ("low", "high")
    if row[side] is not None
  ]
  by_seed = {}
  for row in rows:
    by_seed.setdefault(row["seed"], []).append(_numbers(row["outcomes"]))
  return Score(
    value=float(np.mean(_numbers(row["value"] for row in rows))),
    low=min(ends, default=None),
    high=max(ends, default=None),
    seeds=len(rows),
    outcomes={
      seed: np.mean(outcomes, axis=0).tolist()
      for seed, outcomes in by_seed.items()
    },
  )


def _numbers(values):
  # NaN is stored as null.
  return [math.nan if value is None else value for value in values]


def _require(record, fields, where):
  missing = [
    f for f in fields if not hasattr(record, "keys") or f not in record
  ]
  if missing:
    raise ValueError(
      f"{where} needs {', '.join(fields)}, got no {', '.join(missing)}. "
      "Make it anew with this version of drope_jax."
    )


def _read(path):
  return _parse(path.read_text("utf-8"), path) if path.is_file() else None


def _parse(text, where):
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{where} must be JSON, got something else ({error}). It may have been "
      "cut short: run its command again, or remove it."
    ) from error
