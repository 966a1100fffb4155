"""Writes one self-contained HTML page about runs: tables, plots, settings.

A RUN is a folder that train, surgery, evaluate or demo wrote. The page shows
those of metrics.jsonl, results.json, damage.json and samples.json that are in
it. Training curves of several runs share a plot.
"""

import argparse
import pathlib
import shlex

from drope_jax.analysis import report, runs, summary
from drope_jax.cli import configure, terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    "runs", nargs="+", type=pathlib.Path, metavar="RUN", help="folder of a run"
  )
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path("report.html"),
    help="file of the page (default: %(default)s)",
  )


def run(args: argparse.Namespace) -> None:
  """Writes the page.

  Raises:
    FileNotFoundError: a run has nothing to show.
    ValueError: a run's file is damaged, or two runs have the same name.
    IsADirectoryError: --out is a folder.
  """
  if args.out.is_dir():
    raise IsADirectoryError(
      f"--out must be a file, got the folder {args.out}. Name a file in it, "
      "e.g. report.html."
    )
  gathered = [runs.load(folder) for folder in args.runs]
  names = [one.name for one in gathered]
  if len(set(names)) < len(names):
    raise ValueError(
      f"Runs need different folder names, got {', '.join(names)}. Rename one, "
      "or give each run once."
    )
  command = shlex.join(["drope", "report", *map(str, args.runs)])
  sections = summary.sections(gathered, [command], configure.HIDE_DEFAULTS)
  report.write(args.out, sections, title=f"DroPE: {', '.join(names)}")
  terminal.say(f"wrote {args.out}")
