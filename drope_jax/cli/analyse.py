"""`drope analyse`: figures and a json of what a model's attention does."""

import argparse
import importlib


def run(args: argparse.Namespace) -> None:
  """Runs one analysis.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  importlib.import_module(f"drope_jax.cli.analyses.{args.what}").run(args)
