"""Runs a recipe's phases; started again, it resumes by itself.

CONFIG.gin is a file, or the name of a shipped one (recipes/from_scratch.gin).
The run's folder gets metrics.jsonl, checkpoints, and one model checkpoint a
finished phase, by its name.

  drope train recipes/from_scratch.gin --data stores --out runs/scratch
  drope train mine.gin --set 'recalibrate/TrainPhase.steps = 2000'
"""

import argparse
import pathlib

import rich.console

from drope_jax.cli import configure, progress
from drope_jax.train import loop
from drope_jax.train.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("config", metavar="CONFIG.gin", help="the recipe")
  parser.add_argument(
    "--set",
    action="append",
    default=[],
    dest="overrides",
    metavar="'Class.param = value'",
    help="a binding over the file's; may be repeated",
  )
  parser.add_argument(
    "--out", metavar="DIR", help="the run's folder (default: runs/CONFIG)"
  )
  parser.add_argument(
    "--data",
    metavar="DIR",
    help="where the recipe's relative paths start (default: here)",
  )


def run(args: argparse.Namespace) -> None:
  """Runs what is left of the recipe.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  recipe = configure.build(args.config, Recipe, args.overrides)
  out = args.out or f"runs/{pathlib.Path(args.config).stem}"
  console = rich.console.Console(stderr=True)
  with progress.TrainingProgress(recipe, console) as show:
    loop.run(
      recipe,
      out,
      base_dir=args.data,
      on_metrics=show,
      on_model=lambda name, model: console.print(
        f"{name}: {model.tokens:,} tokens of training behind it"
      ),
    )
  print(f"{out}: finished. `drope inspect {out}` shows it.")
