"""Saves the plots of a report on some runs as SVG files, on white.

python tools/save_plots.py runs/scratch/rope runs/scratch/drope --out docs/img
"""

import argparse
import pathlib
import re

from drope_jax.analysis import canvas, report, runs, summary


def main() -> None:
  """Writes PREFIX-<section>-<n>.svg for each plot, and prints its caption."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
  parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR")
  parser.add_argument("--prefix", default="plot")
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  for section in summary.sections([runs.load(run) for run in args.runs]):
    slug = re.sub(r"\W+", "_", section.title.lower()).strip("_")
    plots = [b for b in section.blocks if isinstance(b, report.Plot)]
    for i, plot in enumerate(plots):
      path = args.out / f"{args.prefix}-{slug}-{i}.svg"
      canvas.save(plot.figure, path)
      print(f"{path}: {plot.caption}")


if __name__ == "__main__":
  main()
