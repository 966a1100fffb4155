"""`drope sweep`: runs what is left of a sweep, and shows what is there."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import fnmatch
import functools
import os
import pathlib
import subprocess
import sys

from drope_jax.analysis import paired, sweeps
from drope_jax.checkpoint import store
from drope_jax.cli import configure, output, terminal, termination
from drope_jax.data import paths
from drope_jax.evals import suite as suites
from drope_jax.exits import Exit
from drope_jax.train import kept
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
  recipes = {point.name: _recipe(sweep, point) for point in sweep.points()}
  suite = None
  if sweep.suite is not None:
    suite = configure.build(sweep.suite, suites.Suite)
  if args.keep is not None and suite is None:
    raise ValueError(
      "--keep needs a sweep with a suite, whose results say what was trained, "
      f"got {args.keep}. Set Sweep.suite, or leave --keep out."
    )
  points = _chosen(sweep, args.points)
  k, n = args.part
  if args.list:
    for point in points[k - 1 :: n]:
      terminal.say(f"{point.name}: {'; '.join(point.overrides)}")
    return None
  named = f"runs/{pathlib.Path(args.config).stem}"
  out = output.Output.open(named if args.out is None else args.out)
  work = _Work(sweep, suite, recipes, args.data, out.folder, args.keep)
  failed = None if args.table else work.do(points, k, n)
  _show(work, out)
  return failed


def _recipe(sweep: Sweep, point: Point) -> Recipe:
  try:
    return configure.build(sweep.recipe, Recipe, point.overrides)
  except ValueError as error:
    raise ValueError(f"The point {point.name}: {error}") from error


def _chosen(sweep: Sweep, patterns: str) -> list[Point]:
  """Returns the points whose names match one of the shell's patterns."""
  points, matched = list(sweep.points()), set()
  for pattern in patterns.split(","):
    own = fnmatch.filter((point.name for point in points), pattern)
    if not own:
      raise ValueError(
        f"--points needs patterns of points' names, got {pattern!r}, which is "
        f"none of {', '.join(point.name for point in points)}. Change it."
      )
    matched |= {*own}
  return [point for point in points if point.name in matched]


@dataclasses.dataclass(frozen=True)
class _Work:
  """A sweep's trainings and evaluations, and where they are.

  Attributes:
    sweep: what is asked.
    suite: its suite, if it has one.
    recipes: by the names of points.
    data: --data.
    out: the folder of the runs.
    keep: --keep.
  """

  sweep: Sweep
  suite: suites.Suite | None
  recipes: Mapping[str, Recipe]
  data: str | None
  out: pathlib.Path
  keep: pathlib.Path | None

  def do(self, points: Sequence[Point], k: int, n: int) -> int | None:
    """Does what is left of every nth point; returns the first failure.

    Raises:
      FileNotFoundError: there is not what a training starts from.
    """
    for start in {self.recipes[point.name].init_from for point in points}:
      if start is not None:
        store.locate(paths.resolve(start))
    failed = None
    if k == 1:
      for name, path in self.sweep.references.items():
        evaluate = functools.partial(self._evaluate, name, path)
        status = self._once(name, kept.has_results, evaluate)
        failed = failed or status
    for point in points[k - 1 :: n]:
      recipe = self.recipes[point.name]
      is_kept = functools.partial(kept.has_run, recipe=recipe)
      train = functools.partial(self._train, point)
      status = self._once(point.name, is_kept, train)
      failed = failed or status
    return failed

  def folder(self, name: str) -> pathlib.Path | None:
    """Returns where the files of a finished training are; None: nowhere.

    Raises:
      ValueError: kept files are of another training.
    """
    if self._is_trained(name):
      return self.out / name
    if self.keep is None or not (self.keep / name / kept.RESULTS).exists():
      return None
    assert self.suite is not None  # Or `run` has refused --keep.
    # What it started from may be on another machine.
    with contextlib.suppress(FileNotFoundError):
      kept.has_run(self.keep / name, self.suite, self.recipes[name])
    return self.keep / name

  def results_of_others(self) -> sweeps.Results:
    """Returns the results in folders that are no points': references, say."""
    folders = {
      file.parent.name: file.parent
      for parent in (self.keep, self.out)
      if parent is not None
      for file in sorted(parent.glob(f"*/{kept.RESULTS}"))
    }
    return [
      row
      for name, folder in folders.items()
      if name not in self.recipes
      for row in sweeps.results(folder)
    ]

  def _is_trained(self, name: str) -> bool:
    last = self.recipes[name].phases[-1].name
    return store.is_finished(self.out / name / last)

  def _once(
    self,
    name: str,
    is_kept: Callable[[pathlib.Path, suites.Suite], bool],
    work: Callable[[], int | None],
  ) -> int | None:
    """Does what is not kept, and keeps it; returns the status if not 0."""
    if self.keep is None or self.suite is None:
      return work()
    if is_kept(self.keep / name, self.suite):
      return None
    status = work()
    if status is None:
      kept.copy(self.out / name, self.keep / name)
    return status

  def _train(self, point: Point) -> int | None:
    folder = self.out / point.name
    command = ["train", self.sweep.recipe, "--out", os.fspath(folder)]
    if self.data is not None:
      command += ["--data", self.data]
    for binding in point.overrides:
      command += ["--set", binding]
    last = self.recipes[point.name].phases[-1].name
    return _run(point.name, command) or self._evaluate(
      point.name, os.fspath(folder / last), self.sweep.methods
    )

  def _evaluate(
    self, name: str, path: str, methods: Sequence[str] | None = None
  ) -> int | None:
    if self.sweep.suite is None:
      return None
    command = ["evaluate", f"{name}={path}", "--suite", self.sweep.suite]
    if methods is not None:
      command += ["--set", f"Suite.methods = {tuple(methods)!r}"]
    out = os.fspath(self.out / name)
    return _run(f"{name}: evaluation", [*command, "--out", out])


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


def _show(work: _Work, out: output.Output) -> None:
  """Writes and prints what the finished trainings came to."""
  sweep = work.sweep
  trainings = [
    sweeps.read(folder, point.labels, point.seed)
    for point in sweep.points()
    if (folder := work.folder(point.name)) is not None
  ]
  others = work.results_of_others()
  rows = sweeps.table(trainings, others)
  out.json(
    "sweep",
    sweep=sweep,
    trainings=[sweeps.summary(training) for training in trainings],
    rows=rows,
  )
  if not trainings:
    terminal.say(f"0 of {len(work.recipes)} trainings are finished")
    return
  found = dict.fromkeys(name for cells in rows.values() for name in cells)
  if unknown := [name for name in sweep.shown if name not in found]:
    raise ValueError(
      f"Sweep.shown names scores of its trainings, {', '.join(found)}, got "
      f"{', '.join(unknown)}. Change it with --set; no training is run again."
    )
  out.figure("sweep", sweeps.plot(rows, sweep.shown))
  tables = {
    f"{len(trainings)} of {len(work.recipes)} trainings: means over seeds, "
    "with 95% intervals": {
      row: {name: _cell(cell, name) for name, cell in cells.items()}
      for row, cells in rows.items()
    }
  }
  if sweep.against is not None:
    results = [row for training in trainings for row in training.results]
    apart = sweeps.differences([*results, *others], sweep.against)
    if not apart:
      why = "no other row has its samples"
      if sweep.against not in rows:
        why = f"it is none of {', '.join(rows)}"
      terminal.say(f"no comparison with {sweep.against}: {why}", stderr=True)
    tables[f"minus {sweep.against}, intervals over the same samples"] = {
      row: {name: _difference(cell, name) for name, cell in by_name.items()}
      for row, by_name in apart.items()
    }
  _print(tables, sweep, out)


def _print(
  tables: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]],
  sweep: Sweep,
  out: output.Output,
) -> None:
  """Prints the tables, and writes them as Markdown.

  Args:
    tables: by title, row and score: the lines of a cell.
    sweep: what it shows.
    out: where.
  """
  first = " · ".join(axis.name for axis in sweep.axes)
  lines = []
  for title, rows in tables.items():
    for group, names in sweeps.groups(sweep.shown).items():
      shown = {
        row: [cells.get(name, ("",)) for name in names.values()]
        for row, cells in rows.items()
        if any(name in cells for name in names.values())
      }
      if not shown:
        continue
      heading = f"{group}: {title}"
      columns = (first, *names)
      output.show(
        heading,
        columns,
        [(row, *map("\n".join, cells)) for row, cells in shown.items()],
      )
      lines += [
        f"{heading}\n",
        f"| {' | '.join(columns)} |",
        "| --- |" + " --- |" * len(names),
        *(
          f"| {row} | {' | '.join(map(' '.join, cells))} |"
          for row, cells in shown.items()
        ),
        "",
      ]
  out.text("sweep.md", "\n".join(lines))


def _cell(cell: sweeps.Cell, name: str) -> Sequence[str]:
  form = f".{sweeps.digits(name)}f"
  ends = () if cell.low is None else (f"{cell.low:{form}}..{cell.high:{form}}",)
  return (f"{cell.mean:{form}}", *ends)


def _difference(apart: paired.Difference, name: str) -> Sequence[str]:
  form = f"+.{sweeps.digits(name)}f"
  low, high = apart.low, apart.high
  ends = () if low is None else (f"{low:{form}}..{high:{form}}",)
  return (f"{apart.value:{form}}", *ends)
