"""Runs a recipe's phases; started again, it resumes by itself.

CONFIG.gin is a file, or the name of a shipped one (recipes/from_scratch.gin).
The run's folder gets metrics.jsonl, checkpoints, and one model checkpoint a
finished phase, by its name.

  drope train recipes/from_scratch.gin --data stores --out runs/scratch
  drope train mine.gin --set 'recalibrate/TrainPhase.steps = 2000'
  drope train mine.gin --track tensorboard
"""

import argparse

from drope_jax.cli.arguments import recipe_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  recipe_options.add_arguments(parser)
  parser.add_argument(
    "--data",
    metavar="DIR",
    help="where relative paths of the recipe's stores and tokenizer start "
    "(default: the current folder, where Recipe.init_from always starts)",
  )
  parser.add_argument(
    "--out", metavar="DIR", help="the run's folder (default: runs/CONFIG)"
  )
  parser.add_argument(
    "--from-step",
    type=int,
    metavar="N",
    help="resume from this kept step, and remove the later ones (default: "
    "from the newest)",
  )
  parser.add_argument(
    "--topology",
    metavar="SLICE",
    help="refuse other devices than those of v5e-256, say, for which the "
    "recipe was planned (default: take any)",
  )
  parser.add_argument(
    "--distributed",
    type=int,
    nargs="?",
    const=300,
    metavar="SECONDS",
    help="join the processes of other hosts, within 300 seconds by default",
  )
  parser.add_argument(
    "--track",
    action="append",
    choices=("tensorboard", "wandb"),
    default=[],
    help="show metrics there too; may be repeated (default: none)",
  )
