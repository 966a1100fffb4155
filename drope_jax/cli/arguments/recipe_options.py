"""Arguments that commands with a recipe share."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the recipe, and --set."""
  parser.add_argument("config", metavar="CONFIG.gin", help="the recipe")
  add_overrides(parser, "the file's")


def add_overrides(parser: argparse.ArgumentParser, of: str) -> None:
  """Declares --set; its bindings override those `of` a file."""
  parser.add_argument(
    "--set",
    action="append",
    default=[],
    dest="overrides",
    metavar="'Class.param = value'",
    help=f"a binding that overrides {of}; may be repeated (default: none)",
  )


def add_model(parser: argparse.ArgumentParser) -> None:
  """Declares the model of a recipe that starts from a checkpoint."""
  parser.add_argument(
    "--model",
    metavar="CONFIG.gin",
    help="config of the model that the recipe starts from, if its checkpoint "
    "is not here (default: read the checkpoint)",
  )
