"""What the trainings of a sweep came to: one row a combination, over seeds."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import pathlib
import re
from typing import Any

import matplotlib
from matplotlib import axes
import numpy as np

from drope_jax.analysis import canvas, paired, palette, records, runs
from drope_jax.analysis.canvas import Figure
from drope_jax.analysis.studies import recovery
from drope_jax.evals import interface, intervals, registry
from drope_jax.evals.metric import SHARE

_LAST = 0.05
"""Share of the last phase's records that its loss is the mean of."""
_SEED = re.compile(r"_s\d+$")

TRAINING = "training"
"""The group of the scores of a log."""

Results = Sequence[Mapping[str, Any]]
"""Rows of results.json."""


@dataclasses.dataclass(frozen=True)
class Training:
  """One finished training.

  Attributes:
    labels: of its values on the sweep's axes.
    seed: its own.
    scores: of its log, by name: "loss" (over the last 5% of the last phase),
      "held-out loss", "spikes".
    results: of its evaluation, under the name of its labels.
  """

  labels: tuple[str, ...]
  seed: int
  scores: dict[str, float]
  results: Results

  @property
  def name(self) -> str:
    """Of its row, which it shares with the other seeds."""
    return row_name(self.labels)


@dataclasses.dataclass(frozen=True)
class Cell:
  """One score of a combination, over its seeds.

  Attributes:
    mean: over seeds.
    low, high: Student's 95% interval, within 0 to 1 of a share; None for one
      seed.
    seeds: how many.
  """

  mean: float
  low: float | None
  high: float | None
  seeds: int


Table = dict[str, dict[str, Cell]]
"""Cells by row, then by score. A row is a combination, read by a method."""


def row_name(labels: Sequence[str]) -> str:
  """Returns the name that the trainings of a combination have in tables."""
  return " · ".join(labels)


def read(folder: pathlib.Path, labels: tuple[str, ...], seed: int) -> Training:
  """Returns what the folder of a finished training holds.

  Raises:
    ValueError: a file is damaged, or the log is empty.
  """
  log = records.read_metrics(folder, records.LOGGED)
  if not log:
    raise ValueError(
      f"A training of a sweep needs a record in {folder / records.METRICS}, "
      "got none. Copy the file again, or lower Recipe.log_every_steps."
    )
  scores: dict[str, float] = {}
  last = [record for record in log if record["phase"] == log[-1]["phase"]]
  losses = [
    interface.number(record["loss"])
    for record in last[-max(round(_LAST * len(last)), 1) :]
  ]
  scores["loss"] = float(np.mean(losses))
  held_out = [r["held_out_loss"] for r in last if "held_out_loss" in r]
  if held_out:
    scores["held-out loss"] = interface.number(held_out[-1])
  scores["spikes"] = float(len(recovery.spikes(tuple(log))))
  name = row_name(labels)
  rows = [{**row, "model": name} for row in results(folder)]
  return Training(labels, seed, scores, rows)


def summary(training: Training) -> dict[str, Any]:
  """Returns a training as JSON: the results' scores by method and name."""
  by_method: dict[str, dict[str, float]] = {}
  for row in training.results:
    by_method.setdefault(row["method"], {})[score_name(row)] = row["value"]
  return {
    "labels": training.labels,
    "seed": training.seed,
    "scores": training.scores,
    "results": by_method,
  }


def results(folder: pathlib.Path) -> Results:
  """Returns the rows of a folder's finished results.json, if it has one.

  Models have their own names; what ends them as a seed, such as "_s0", is left
  out.
  """
  file = folder / "results.json"
  if not file.exists():
    return []
  results = runs.load_results(file)
  if not results["finished"]:
    return []
  return [
    {
      **row,
      "model": _SEED.sub("", row["model"]),
      "value": interface.number(row["value"]),
    }
    for row in results["rows"]
  ]


def score_name(row: Mapping[str, Any]) -> str:
  """Returns the name of a result's score, such as "multi_key accuracy 4x"."""
  name = f"{row['task']} {row['metric']} {row['factor']:g}x"
  return name + (" +scale" if row["scale_fitted"] else "")


def digits(name: str) -> int:
  """Returns how many decimals of a score are shown."""
  return 2 if _is_share(name) else 3


def _is_share(name: str) -> bool:
  task, _, rest = name.partition(" ")
  metric = rest.partition(" ")[0]
  return metric == "accuracy" or registry.metric(task, metric).unit == SHARE


def table(trainings: Iterable[Training], references: Results = ()) -> Table:
  """Returns every score over its seeds, those of the references last."""
  by_row: dict[str, dict[str, list[float]]] = {}

  def add(row: str, name: str, value: float) -> None:
    by_row.setdefault(row, {}).setdefault(name, []).append(value)

  def add_results(rows: Results) -> None:
    for row in rows:
      label = palette.label(row["model"], row["method"])
      add(label, score_name(row), row["value"])

  for training in trainings:
    for name, value in training.scores.items():
      add(training.name, name, value)
    add_results(training.results)
  add_results(references)
  return {
    row: {name: _cell(name, values) for name, values in own.items()}
    for row, own in by_row.items()
  }


def differences(
  rows: Results, against: str
) -> dict[str, dict[str, paired.Difference]]:
  """Returns each row minus another on the same samples, by row and score.

  Outcomes are means over trainings; intervals are over samples, and do not say
  how much trainings vary.

  Args:
    rows: of all results.
    against: the name of the other row; nothing is returned without it.
  """
  scores = runs.scores(rows)

  def names(cell: runs.Cell) -> tuple[str, str]:
    return palette.label(cell.model, cell.method), score_name(cell._asdict())

  rivals = {
    name: score
    for cell, score in scores.items()
    for row, name in [names(cell)]
    if row == against
  }
  by_row: dict[str, dict[str, paired.Difference]] = {}
  for cell, score in scores.items():
    row, name = names(cell)
    if row == against or name not in rivals:
      continue
    if (apart := paired.difference(score, rivals[name])) is not None:
      by_row.setdefault(row, {})[name] = apart
  return by_row


def _cell(name: str, values: Sequence[float]) -> Cell:
  mean, n = float(np.mean(values)), len(values)
  interval = intervals.student(values)
  if interval is None:
    return Cell(mean, None, None, n)
  low, high = interval
  if _is_share(name):
    low, high = max(low, 0.0), min(high, 1.0)
  return Cell(mean, low, high, n)


def groups(names: Iterable[str]) -> dict[str, dict[str, str]]:
  """Returns score names by what they measure, then by the end of the name.

  "multi_key accuracy 4x +scale" is "4x +scale" of "multi_key accuracy". The
  scores of a log are together, under `TRAINING`.
  """
  grouped: dict[str, dict[str, str]] = {}
  for name in names:
    parts = re.fullmatch(r"(.+) ([\d.]+x(?: \+scale)?)", name)
    group, end = parts.groups() if parts else (TRAINING, name)
    grouped.setdefault(group, {})[end] = name
  return grouped


@matplotlib.rc_context(canvas.STYLE)
def plot(scores: Table, names: Sequence[str]) -> Figure:
  """Each score by row, with intervals over seeds.

  There is a line of panels for each of `groups`; lengths share their axis.
  """
  grouped = groups(names)
  height_in = 0.8 + 0.28 * len(scores)
  fig = Figure(
    figsize=(canvas.WIDTH_IN, height_in * len(grouped)), layout="constrained"
  )
  parts = fig.subfigures(len(grouped), 1, squeeze=False)[:, 0]
  for part, (group, by_end) in zip(parts, grouped.items(), strict=True):
    same = group != TRAINING
    grid = part.subplots(
      1, len(by_end), sharex=same, sharey=True, squeeze=False
    )
    if same:
      part.suptitle(group, fontsize=9)
    for ax, (end, name) in zip(grid[0], by_end.items(), strict=True):
      _panel(ax, [cells.get(name) for cells in scores.values()])
      ax.set_title(end, fontsize=8)
    grid[0, 0].set_yticks(range(len(scores)), list(scores))
    grid[0, 0].set_ylim(len(scores) - 0.5, -0.5)
  return fig


def _panel(ax: axes.Axes, cells: Sequence[Cell | None]) -> None:
  ax.margins(x=0.12)
  for y, cell in enumerate(cells):
    if cell is None:
      continue
    if cell.low is not None:
      ax.hlines(y, cell.low, cell.high, color=canvas.INK, lw=1)
    ax.plot(cell.mean, y, "o", color=palette.DROPPED.color)
