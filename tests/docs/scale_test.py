"""docs/scale.md names options and recipes that there are."""

import pathlib
import re

from drope_jax.cli import configure, main

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "scale.md").read_text()


def test_its_options_are_the_commands():
  known = {
    option
    for command in ("evaluate", "inspect", "plan")
    for option in main.parser(command)._option_string_actions
  }
  commands = re.sub(r"(?m)^ +python tools/.*$", "", TEXT)
  named = {*re.findall(r"--[a-z]+", commands)}
  assert {"--eval", "--save", "--topology"} < named
  assert named <= known


def test_its_recipes_are_shipped():
  names = {*re.findall(r"`(\w+)\.gin`", TEXT)}
  assert names
  for name in names:
    configure.locate(f"recipes/{name}.gin")
