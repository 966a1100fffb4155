"""`drope analyse RUN recovery`."""

import argparse
from collections.abc import Sequence
import os

from etils import epath
import numpy as np

from drope_jax.analysis import records
from drope_jax.analysis.studies import lengths_plots, pairs, recovery
from drope_jax.checkpoint import store
from drope_jax.cli import console as consoles
from drope_jax.cli import output, terminal
from drope_jax.cli.analyses import subject
from drope_jax.data import paths
from drope_jax.evals import intervals


def run(args: argparse.Namespace) -> None:
  """Describes a training by its log and its saves.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  if subject.is_config(args) or args.overrides:
    raise ValueError(
      f"An analysis of recovery needs a run's folder, got {args.model}, which "
      "was not trained. Name the --out of a `drope train`."
    )
  folder = paths.resolve(args.model)
  log = _log(folder)
  laws, spikes = recovery.laws(log), recovery.spikes(log)
  out = output.Output.open(args.out)
  saves = _saves(args, folder, log)
  out.json(
    "recovery",
    run=os.fspath(folder),
    laws=laws,
    spikes=spikes,
    saves=saves,
    log=list(log),
  )
  out.figure("recovery", lengths_plots.training(log, laws, saves))
  out.figure("spikes", lengths_plots.spikes(log, spikes))
  _show(laws, spikes, saves)
  benchmarks = records.scores(log)
  if benchmarks:
    output.show(
      "scores during the training, first and last",
      ("score", "first", "last"),
      [
        (f"{' '.join(metric)} {where}", *(f"{y:.3f}" for _, y in ends))
        for metric, lines in benchmarks.items()
        for where, points in lines.items()
        for ends in [(points[0], points[-1])]
      ],
    )


def _log(folder: epath.Path) -> records.Log:
  path = folder / records.METRICS
  if not path.exists():
    path = folder.parent / f"{folder.name}.{records.METRICS}"
  log = tuple(records.read(path, records.LOGGED))
  if not log:
    raise FileNotFoundError(
      f"An analysis of recovery needs a run with {records.METRICS}, got "
      f"{folder} without a record. Name the --out of a `drope train`."
    )
  return log


def _saves(args, folder: epath.Path, log: records.Log) -> list[recovery.Save]:
  """Returns the scores of every save; none where the run kept fewer than 2."""
  steps = store.finished_steps(folder)
  if len(steps) < 2:
    return []
  found: list[recovery.Save] = []
  before = 0.0
  at, read = ([record[of] for record in log] for of in ("step", "tokens"))
  with consoles.Console(stderr=True).status("") as status:
    for done, step in enumerate(steps, 1):
      status.update(f"reading save {done} of {len(steps)}")
      model = subject.of_checkpoint(folder / str(step), args.begin_with_bos)
      tokens_BS, asked = subject.for_pairs(model, args)
      scores = pairs.scores(model.config, model.params, tokens_BS, asked)
      recalled, count = int(np.sum(scores.recalled_P)), len(scores.recalled_P)
      if not found:  # The log counts from the start of the run.
        before = (model.trained_tokens or 0) - np.interp(step, at, read)
      found.append(
        recovery.Save(
          step,
          round((model.trained_tokens or 0) - before),
          float(scores.loss_B.mean()),
          recalled / count,
          *intervals.wilson(recalled, count),
        )
      )
  return found


def _show(
  laws: Sequence[recovery.Law],
  spikes: Sequence[recovery.Spike],
  saves: Sequence[recovery.Save],
) -> None:
  def cell(interval: recovery.Interval) -> str:
    ends = f"{interval.low:.3f}..{interval.high:.3f}"
    return f"{interval.value:.3f}\n{ends}"

  output.show(
    "loss = limit + scale * (tokens of the phase / 1M)^-exponent; "
    f"{len(spikes)} spikes",
    ("phase", "limit", "scale", "exponent", "deviation"),
    [
      (
        f"{law.phase}, {law.field}",
        cell(law.limit),
        cell(law.scale),
        cell(law.exponent),
        f"{law.deviation:.3f}",
      )
      for law in laws
    ],
  )
  if not laws:
    terminal.say(
      f"no law: it needs {recovery.LEAST_POINTS} records of a phase (see "
      "Recipe.log_every_steps) with finite losses that decide its exponent.",
      stderr=True,
    )
  if saves:
    output.show(
      "saves, at the trained context",
      ("step", "tokens", "loss", "answered"),
      [
        (
          str(save.step),
          f"{save.tokens:,.0f}",
          f"{save.loss:.3f}",
          f"{save.recall:.0%}",
        )
        for save in saves
      ],
    )
