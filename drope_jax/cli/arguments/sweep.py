r"""Trains a recipe with every combination of some changes, over seeds.

SWEEP.gin binds a Sweep: a recipe, axes of labeled bindings, and seeds. Each
combination is a `drope train` in a folder of its own, and a `drope evaluate` of
its last model. Those that are finished are left out, one that was interrupted
resumes, and one that failed is tried again. Then a table of all that is there,
sweep.json, sweep.md and sweep.svg.

With --keep, the small files of what is finished (results.json, metrics.jsonl)
are copied to a folder that can be committed, and what is there counts as
finished, on any machine.

  drope sweep sweeps/when_to_drop.gin --data runs/demo_data --out runs/when
  drope sweep mine.gin --part 2/8 --out runs/mine  # On the second of 8 hosts.
  drope sweep mine.gin --list
  drope sweep mine.gin --keep results/mine --points 'qk_*,none_*'
  drope sweep mine.gin --keep results/mine --table
"""

import argparse
import pathlib

from drope_jax.cli import counts
from drope_jax.cli.arguments import recipe_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("config", metavar="SWEEP.gin", help="the sweep")
  recipe_options.add_overrides(parser, "the sweep's")
  parser.add_argument(
    "--data",
    metavar="DIR",
    help="as of `drope train` (default: the current folder)",
  )
  parser.add_argument(
    "--out", metavar="DIR", help="the sweep's folder (default: runs/SWEEP)"
  )
  parser.add_argument(
    "--part",
    type=counts.part,
    default=(1, 1),
    metavar="K/N",
    help="train only every Nth point, from the Kth; each part on a machine of "
    "its own (default: all)",
  )
  parser.add_argument(
    "--points",
    default="*",
    metavar="PATTERN,...",
    help="train only the points of such names; *, ? and [abc] are as in a "
    "shell (default: all)",
  )
  parser.add_argument(
    "--keep",
    type=pathlib.Path,
    metavar="DIR",
    help="copy the small files of what is finished to DIR, and leave out what "
    "is there (default: none)",
  )
  parser.add_argument(
    "--table", action="store_true", help="run nothing, and show what is there"
  )
  parser.add_argument(
    "--list", action="store_true", help="print the points and their bindings"
  )
