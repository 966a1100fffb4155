"""The files of a run for the report: logs, results, damage, samples."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from drope_jax import artifacts
from drope_jax.analysis import damage as damages
from drope_jax.analysis import records
from drope_jax.evals import interface, registry
from drope_jax.evals.interface import Result
from drope_jax.evals.logit_scale import Fit
from drope_jax.evals.metric import Metric
from drope_jax.evals.suite import Suite

HELD_OUT = "held_out.json"
_FILES = (
  records.METRICS,
  "results.json",
  "damage.json",
  "samples.json",
  "heads.json",
)


@dataclasses.dataclass(frozen=True)
class Run:
  """A run's files; a file that is absent is empty or None.

  Attributes:
    name: of the run in plots.
    metrics: records of metrics.jsonl, as `records.read_metrics` returns them.
    results: results.json.
    damage: damage.json.
    samples: samples.json, a list of {"prompt", "text", "model", ...}.
    logs: records of MODEL.metrics.jsonl by model: how the models of the results
      were trained.
    heads: heads.json, of `drope analyse`.
    held_out: held_out.json: each model's loss on the text of `held_out_loss` in
      the logs.
  """

  name: str
  metrics: records.Log = ()
  results: Mapping[str, Any] | None = None
  damage: damages.Damage | None = None
  samples: tuple[Mapping[str, Any], ...] = ()
  logs: Mapping[str, records.Log] = dataclasses.field(default_factory=dict)
  heads: Mapping[str, Any] | None = None
  held_out: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def rows(self) -> list[Mapping[str, Any]]:
    """The rows of results.json."""
    return self.results["rows"] if self.results else []

  @property
  def trainings(self) -> Mapping[str, records.Log]:
    """The logs of the results' models; without them, the run's own."""
    return self.logs or {self.name: self.metrics}

  @property
  def metrics_of(self) -> dict[str, tuple[Metric, ...]]:
    """The metrics of each task in `rows`, in the order of the tasks.

    They are the file's own. Where it has none, as earlier versions wrote it,
    they are those of the task of that name; () for an unknown name.
    """
    stored = (self.results or {}).get("metrics", {})
    return {
      task: tuple(Metric(**fields) for fields in stored[task])
      if task in stored
      else registry.metrics(task)
      for task in dict.fromkeys(row["task"] for row in self.rows)
    }

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

  With several seeds, the value is their mean, and the interval spans theirs.

  Attributes:
    value: of the metric.
    low, high: of the interval; None where no row has one.
    seeds: number of rows.
    outcomes: the value of each sample, by the seed of the samples; the mean
      where several rows have one seed.
    together: as of `Result`.
  """

  value: float
  low: float | None
  high: float | None
  seeds: int
  outcomes: Mapping[int, Sequence[float]]
  together: int = 1


Scores = Mapping[Cell, Score]


def load(directory: str | os.PathLike) -> Run:
  """Returns what a run's folder holds.

  Raises:
    FileNotFoundError: there is no such folder, or it has none of the files.
    ValueError: a file is damaged; the message names it and the line.
  """
  folder = pathlib.Path(directory)
  present = [name for name in _FILES if (folder / name).is_file()]
  if not present:
    raise FileNotFoundError(
      f"A report needs a folder with one of {', '.join(_FILES)}, got "
      f"{folder}. Name one that drope train, surgery, evaluate, demo or "
      "analyse heads wrote."
    )
  results = folder / "results.json"
  results = load_results(results) if results.is_file() else None
  damage = _read(folder / "damage.json")
  heads = _read(folder / "heads.json")
  if heads is not None:
    records.require(heads, ("heads", "needle"), folder / "heads.json")
  return Run(
    name=folder.resolve().name,
    metrics=tuple(records.read_metrics(folder, records.LOGGED)),
    results=results,
    damage=damage and damages.Damage.from_json(damage),
    samples=_samples(folder / "samples.json"),
    logs={
      path.name.removesuffix(f".{records.METRICS}"): tuple(
        records.read(path, records.LOGGED)
      )
      for path in sorted(folder.glob(f"?*.{records.METRICS}"))
    },
    heads=heads,
    held_out=_read(folder / HELD_OUT) or {},
  )


def _samples(path: pathlib.Path) -> tuple[Mapping[str, Any], ...]:
  """Returns a run's samples of text; none without the file."""
  found = _read(path) or []
  if not isinstance(found, list):
    raise ValueError(
      f"{path} needs a list of samples, got {type(found).__name__}. Create it "
      "again."
    )
  for sample in found:
    records.require(sample, ("text",), path)
    if not isinstance(sample["text"], str):
      raise ValueError(
        f"{path} needs samples of text, got {sample['text']!r:.50}. Create it "
        "again."
      )
  return tuple(found)


def load_results(path: pathlib.Path) -> Mapping[str, Any]:
  """Returns the content of a results.json in the form of this version.

  Raises:
    ValueError: it is damaged, or of a later version.
  """
  results = records.parse(path.read_text("utf-8"), path)
  records.require(results, ("finished", "rows"), path)
  try:
    return _in_this_form(results)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _in_this_form(results):
  """Returns the content of a results.json of any version in this form."""
  codes = results.get("code", [])
  results, writer = artifacts.migrate("Results", results, (codes or [None])[-1])
  results["rows"] = [
    artifacts.fill_defaults(Result, row, writer) for row in results["rows"]
  ]
  results["fits"] = {
    model: {
      method: artifacts.fill_defaults(Fit, fit, writer)
      for method, fit in by.items()
    }
    for model, by in results.get("fits", {}).items()
  }
  results["metrics"] = {
    task: [
      artifacts.fill_defaults(Metric, fields, writer) for fields in metrics
    ]
    for task, metrics in results.get("metrics", {}).items()
  }
  if "settings" in results:
    results["settings"] = artifacts.fill_nested_defaults(
      results["settings"], Suite(), writer
    )
  for model in results.get("models", {}).values():  # Files of their own.
    manifest, _ = artifacts.migrate("Manifest", model["manifest"])
    model["manifest"] = {"schema_version": artifacts.VERSION} | manifest
  return results


def start_of(log: records.Log, phase: str) -> float | None:
  """Returns the tokens of the log at which a phase began; None without it.

  Args:
    log: records by rising step.
    phase: its name, or the beginning of its parts' names.
  """
  inside = [record["phase"].startswith(phase) for record in log]
  if not any(inside):
    return None
  first = inside.index(True)
  return log[first - 1]["tokens"] if first else 0


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
    outcomes = [*map(interface.number, row["outcomes"])]
    by_seed.setdefault(row["seed"], []).append(outcomes)
  if any(len({*map(len, found)}) > 1 for found in by_seed.values()):
    raise ValueError(
      "Results of several trainings are averaged over the same samples, got "
      f"{rows[0]['task']} of one seed with different numbers of samples. "
      "Evaluate all by one suite."
    )
  return Score(
    value=float(np.mean([interface.number(row["value"]) for row in rows])),
    low=min(ends, default=None),
    high=max(ends, default=None),
    seeds=len(rows),
    outcomes={
      seed: np.mean(outcomes, axis=0).tolist()
      for seed, outcomes in by_seed.items()
    },
    together=max(row.get("together", 1) for row in rows),
  )


def _read(path):
  return (
    records.parse(path.read_text("utf-8"), path) if path.is_file() else None
  )
