"""`drope sweep`: runs what is left of a sweep, and shows what is there."""

import argparse
from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys

from drope_jax.analysis import sweeps
from drope_jax.checkpoint import store
from drope_jax.cli import configure, terminal, termination
from drope_jax.cli.analyses import output
from drope_jax.evals import suite as suites
from drope_jax.exits import Exit
from drope_jax.train.recipe import Recipe
from drope_jax.train.sweep import Point, Sweep


def run(args: argparse.Namespace) -> int | None:
  """Trains and evaluates what is missing, one after the other.

  Returns:
    The status of the first that failed.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained; all recipes are
      read before the first training.
    KeyboardInterrupt: Ctrl-C or SIGTERM came; a training has saved its step.
  """
  sweep = configure.build(args.config, Sweep, args.overrides)
  points = list(sweep.points())
  models = [_last_phase(sweep, point) for point in points]
  if sweep.suite is not None:
    configure.build(sweep.suite, suites.Suite)
  if args.list:
    for point in points:
      terminal.say(f"{point.name}: {'; '.join(point.overrides)}")
    return None
  out = output.Output.open(args.out or f"runs/{pathlib.Path(args.config).stem}")
  k, n = args.part
  failed = None
  if k == 1:
    for name, path in sweep.references.items():
      failed = failed or _evaluate(sweep, name, path, out.folder / name)
  for point, model in list(zip(points, models, strict=True))[k - 1 :: n]:
    folder = out.folder / point.name
    command = ["train", sweep.recipe, "--out", os.fspath(folder)]
    if args.data is not None:
      command += ["--data", args.data]
    for binding in point.overrides:
      command += ["--set", binding]
    status = _run(point.name, command) or _evaluate(
      sweep, point.name, os.fspath(folder / model), folder
    )
    failed = failed or status
  _show(sweep, points, models, out)
  return failed


def _last_phase(sweep: Sweep, point: Point) -> str:
  """Returns the name of a point's last model, after a check of its recipe."""
  try:
    recipe = configure.build(sweep.recipe, Recipe, point.overrides)
  except ValueError as error:
    raise ValueError(f"The point {point.name}: {error}") from error
  return recipe.phases[-1].name


def _evaluate(
  sweep: Sweep, name: str, path: str, folder: pathlib.Path
) -> int | None:
  if sweep.suite is None:
    return None
  command = ["evaluate", f"{name}={path}", "--suite", sweep.suite]
  return _run(f"{name}: evaluation", [*command, "--out", os.fspath(folder)])


def _run(what: str, command: Sequence[str]) -> int | None:
  """Runs a command in a process of its own; returns its status if not 0."""
  terminal.say(what, stderr=True)
  program = [sys.executable, "-m", "drope_jax.cli.main"]
  with subprocess.Popen(
    [*program, *command], stdout=subprocess.DEVNULL
  ) as process:
    try:
      status = process.wait()
    except KeyboardInterrupt as interrupt:
      # Ctrl-C has reached it as well; a second one would end it unsaved.
      if isinstance(interrupt, termination.Terminated):
        process.terminate()
      process.wait()
      raise
  if status in (Exit.INTERRUPTED, Exit.TERMINATED):
    raise KeyboardInterrupt
  if status:
    terminal.say(f"{what} ended with status {status}", stderr=True)
  return status or None


def _show(
  sweep: Sweep,
  points: Sequence[Point],
  models: Sequence[str],
  out: output.Output,
) -> None:
  """Writes and prints what the finished trainings came to."""
  trainings = [
    sweeps.read(out.folder / point.name, point.labels, point.seed)
    for point, model in zip(points, models, strict=True)
    if store.is_finished(out.folder / point.name / model)
  ]
  references = {
    name: sweeps.results(out.folder / name) for name in sweep.references
  }
  out.json("sweep", sweep=sweep, trainings=trainings, references=references)
  if not trainings:
    return
  rows = sweeps.table(trainings)
  found = dict.fromkeys(name for cells in rows.values() for name in cells)
  if unknown := [name for name in sweep.shown if name not in found]:
    raise ValueError(
      f"Sweep.shown names scores of its trainings, {', '.join(found)}, got "
      f"{', '.join(unknown)}. Change it with --set; no training is run again."
    )
  out.figure("sweep", sweeps.plot(rows, sweep.shown))
  output.show(
    f"{len(trainings)} of {len(points)} trainings: means over seeds, with 95% "
    "intervals",
    (" · ".join(axis.name for axis in sweep.axes), *sweep.shown),
    [
      (" · ".join(labels), *(_cell(cells.get(name)) for name in sweep.shown))
      for labels, cells in rows.items()
    ]
    + [
      (name, *(_number(scores.get(shown)) for shown in sweep.shown))
      for name, scores in references.items()
    ],
  )


def _cell(cell: sweeps.Cell | None) -> str:
  if cell is None:
    return ""
  ends = "" if cell.low is None else f"\n{cell.low:.3f}..{cell.high:.3f}"
  return _number(cell.mean) + ends


def _number(value: float | None) -> str:
  return "" if value is None else f"{value:.3f}"
