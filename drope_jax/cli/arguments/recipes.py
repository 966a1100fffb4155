"""Lists the shipped recipes, models, evals and sweeps, or prints one.

drope recipes
drope recipes llama2_7b_drope
drope recipes models/llama2_7b.gin
drope recipes tiny > mine.gin
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    "name",
    nargs="?",
    metavar="NAME",
    help="what to print: tiny, recipes/tiny or recipes/tiny.gin (default: list "
    "all)",
  )
