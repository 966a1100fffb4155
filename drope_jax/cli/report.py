"""`drope report`: one HTML page on some runs."""

import argparse
import shlex

from drope_jax.analysis import report, runs, summary
from drope_jax.cli import configure, terminal
from drope_jax.data import paths


def run(args: argparse.Namespace) -> None:
  """Writes the page.

  Raises:
    FileNotFoundError: a run has nothing to show.
    ValueError: a run's file is damaged, two runs have the same name, or a path
      is in a bucket.
    IsADirectoryError: --out is a folder.
  """
  out = paths.local(args.out, "--out")
  if out.is_dir():
    raise IsADirectoryError(
      f"--out must be a file, got the folder {out}. Name a file in it, "
      "e.g. report.html."
    )
  gathered = [runs.load(paths.local(path, "A run")) for path in args.runs]
  names = [one.name for one in gathered]
  if len(set(names)) < len(names):
    raise ValueError(
      f"Runs need different folder names, got {', '.join(names)}. Rename one, "
      "or give each run once."
    )
  command = shlex.join(["drope", "report", *args.runs])
  sections = summary.sections(gathered, [command], configure.HIDE_DEFAULTS)
  report.write(out, sections, title=f"DroPE: {', '.join(names)}")
  terminal.say(f"wrote {out}")
