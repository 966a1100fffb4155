"""What commands that take a recipe have in common."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the recipe, and bindings over it."""
  parser.add_argument("config", metavar="CONFIG.gin", help="the recipe")
  add_overrides(parser, "the file's")


def add_overrides(parser: argparse.ArgumentParser, of: str) -> None:
  """Declares --set, whose bindings are over those `of` a file."""
  parser.add_argument(
    "--set",
    action="append",
    default=[],
    dest="overrides",
    metavar="'Class.param = value'",
    help=f"a binding over {of}; may be repeated (default: none)",
  )


def add_model(parser: argparse.ArgumentParser) -> None:
  """Declares the model of a recipe that starts from a checkpoint."""
  parser.add_argument(
    "--model",
    metavar="CONFIG.gin",
    help="what the recipe starts from, where its checkpoint is not here "
    "(default: read the checkpoint)",
  )
