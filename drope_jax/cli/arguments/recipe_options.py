"""Arguments that several commands share: of a recipe, and of a model."""

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


def add_dtype(parser: argparse.ArgumentParser) -> None:
  """Declares the dtype that a language model's weights are held in."""
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16", "int8"),
    default="float32",
    help="of the weights (default: %(default)s); a CPU computes in float32 and "
    "reads few bits faster; int8 is for a CPU alone",
  )


def add_mesh(parser: argparse.ArgumentParser) -> None:
  """Declares the mesh that a language model is split over."""
  parser.add_argument(
    "--mesh",
    choices=("single", "fsdp", "fsdp_tp", "long"),
    help="how all devices share the work (default: the first does it alone)",
  )
