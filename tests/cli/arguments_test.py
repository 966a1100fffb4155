"""The arguments of commands: light, and in step with the library."""

import subprocess
import sys

import pytest

from drope_jax import sharding
from drope_jax.checkpoint.formats import export, leaves, meta
from drope_jax.cli import main, track
from drope_jax.model import config
from drope_jax.surgery import qk_norm


def test_help_imports_nothing_heavy():
  source = """
import sys
from drope_jax.cli import main
for name in main.COMMANDS:
  main.parser(name).format_help()
heavy = {"etils", "flax", "gin", "jax", "matplotlib", "numpy", "rich"}
assert not heavy & {*sys.modules}
"""
  ran = subprocess.run(
    [sys.executable, "-c", source], capture_output=True, text=True
  )
  assert ran.returncode == 0, ran.stderr


# Literal in the arguments, where importing them would import jax.
@pytest.mark.parametrize(
  ("command", "option", "known"),
  [
    ("convert", "--dtype", ("bfloat16", "float32", leaves.KEEP)),
    ("convert", "--llama", meta.RELEASES),
    ("evaluate", "--mesh", sharding.PRESETS),
    ("export", "--format", export.FORMATS),
    ("sample", "--mesh", sharding.PRESETS),
    ("surgery", "--qk-norm", config.QK_NORMS),
    ("surgery", "--qk-norm-init", qk_norm.INITS),
    ("surgery", "--qk-norm-scope", config.QK_NORM_SCOPES),
    ("train", "--track", track.TRACKERS),
  ],
)
def test_an_options_choices_are_the_librarys(command, option, known):
  action = main.parser(command)._option_string_actions[option]
  assert set(action.choices) == set(known)
