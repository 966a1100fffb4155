"""What the trainings of a sweep came to: one row a combination, over seeds."""

from collections.abc import Sequence
import dataclasses
import pathlib

import matplotlib
import numpy as np

from drope_jax.analysis import canvas, palette, records, runs
from drope_jax.analysis.canvas import Figure
from drope_jax.analysis.studies import recovery
from drope_jax.evals import intervals

_FIELDS = ("step", "phase", "tokens", "loss")
_METRICS = ("accuracy", "tail_loss")
_LAST = 0.05
"""Share of the last phase's records that its loss is the mean of."""


@dataclasses.dataclass(frozen=True)
class Training:
  """One finished training.

  Attributes:
    labels: of its values on the sweep's axes.
    seed: its own.
    scores: by name: "loss" (over the last 5% of the last phase),
      "held-out loss", "spikes", and each score of its results.
  """

  labels: tuple[str, ...]
  seed: int
  scores: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Cell:
  """One score of a combination, over its seeds.

  Attributes:
    mean: over seeds.
    low, high: Student's 95% interval; None for one seed.
    seeds: how many.
  """

  mean: float
  low: float | None
  high: float | None
  seeds: int


def read(folder: pathlib.Path, labels: tuple[str, ...], seed: int) -> Training:
  """Returns what the folder of a finished training holds.

  Raises:
    ValueError: a file is damaged, or the log is empty.
  """
  log = records.read_metrics(folder, _FIELDS)
  if not log:
    raise ValueError(
      f"A training of a sweep needs a record in {folder / records.METRICS}, "
      "got none. Copy the file again, or lower Recipe.log_every_steps."
    )
  scores: dict[str, float] = {}
  last = [record for record in log if record["phase"] == log[-1]["phase"]]
  losses = [
    np.nan if record["loss"] is None else record["loss"]
    for record in last[-max(round(_LAST * len(last)), 1) :]
  ]
  scores["loss"] = float(np.mean(losses))
  held_out = [r["held_out_loss"] for r in last if r.get("held_out_loss")]
  if held_out:
    scores["held-out loss"] = held_out[-1]
  scores["spikes"] = float(len(recovery.spikes(tuple(log))))
  return Training(labels, seed, scores | results(folder))


def results(folder: pathlib.Path) -> dict[str, float]:
  """Returns the scores of a folder's finished results.json, by name."""
  file = folder / "results.json"
  if not file.exists():
    return {}
  found = runs.load_results(file)
  if not found["finished"]:
    return {}
  return {
    _name(row): row["value"]
    for row in found["rows"]
    if row["value"] is not None and row["metric"] in _METRICS
  }


def _name(row) -> str:
  name = f"{row['task']} {row['metric']} {row['factor']:g}x"
  if row["method"] != "model":
    name += f" {row['method']}"
  return name + (" +scale" if row["scale_fitted"] else "")


def table(
  trainings: Sequence[Training],
) -> dict[tuple[str, ...], dict[str, Cell]]:
  """Returns each combination's scores over its seeds."""
  found: dict[tuple[str, ...], dict[str, list[float]]] = {}
  for training in trainings:
    own = found.setdefault(training.labels, {})
    for name, value in training.scores.items():
      own.setdefault(name, []).append(value)
  return {
    labels: {name: _cell(values) for name, values in own.items()}
    for labels, own in found.items()
  }


def _cell(values: Sequence[float]) -> Cell:
  low, high = intervals.student(values) or (None, None)
  return Cell(float(np.mean(values)), low, high, len(values))


@matplotlib.rc_context(canvas.STYLE)
def plot(
  found: dict[tuple[str, ...], dict[str, Cell]], names: Sequence[str]
) -> Figure:
  """Each score by combination, with intervals over seeds, a panel a score."""
  labels = [" · ".join(key) for key in found]
  fig = Figure(
    figsize=(canvas.WIDTH_IN, 0.8 + 0.28 * len(labels)), layout="constrained"
  )
  grid = np.atleast_1d(fig.subplots(1, len(names), sharey=True))
  for ax, name in zip(grid, names, strict=True):
    for y, cells in enumerate(found.values()):
      if (cell := cells.get(name)) is None:
        continue
      if cell.low is not None:
        ax.hlines(y, cell.low, cell.high, color=canvas.INK, lw=1)
      ax.plot(cell.mean, y, "o", color=palette.DROPPED.color)
    ax.set_title(name, fontsize=8)
  grid[0].set_yticks(range(len(labels)), labels)
  grid[0].set_ylim(len(labels) - 0.5, -0.5)
  return fig
