"""docs/scale.md names options and recipes that there are."""

import argparse
import pathlib
import re

from drope_jax.cli import configure, evaluate, inspect, plan

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "scale.md").read_text()


def test_its_options_are_the_commands():
  parser = argparse.ArgumentParser(conflict_handler="resolve")
  for command in (evaluate, inspect, plan):
    command.add_arguments(parser)
  named = {*re.findall(r"--[a-z]+", TEXT)}
  assert {"--eval", "--save", "--topology"} < named
  assert named <= parser._option_string_actions.keys()


def test_its_recipes_are_shipped():
  names = {*re.findall(r"`(\w+)\.gin`", TEXT)}
  assert names
  for name in names:
    configure.locate(f"recipes/{name}.gin")
