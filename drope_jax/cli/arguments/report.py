"""Writes one self-contained HTML page about runs: tables, plots, settings.

A RUN is a folder that train, surgery, evaluate, demo or analyse heads wrote.
The page shows those of metrics.jsonl, results.json, damage.json, samples.json
and heads.json that are in it. Training curves of several runs share a plot.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
  parser.add_argument(
    "--out",
    default="report.html",
    help="file of the page (default: %(default)s)",
  )
