"""Prints the results of tools/ladder.py as Markdown tables.

First come the scores of each model, without and with a fitted softmax scale:
the mean over the seeds, and their range. Then comes the difference of each
model to a rival on the same questions and texts, with the 95% interval of the
paired difference.

  python tools/ladder_table.py runs/ladder
  python tools/ladder_table.py runs/ladder --against keep16_1.0M
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from drope_jax.analysis import paired, palette, runs

Row = tuple[str, str]
"""A variant without its seed, and the method of its evaluation."""


@dataclasses.dataclass(frozen=True)
class Measure:
  """A score: its title, and the results that it is taken from."""

  title: str
  task: str
  metric: str
  digits: int


MEASURES = (
  Measure("four keys, one asked: share answered", "multi_key", "accuracy", 2),
  Measure("loss of a text's last tokens, nats", "perplexity", "tail_loss", 3),
)


def main() -> None:
  """Prints the tables; an unreadable file is one line and exit status 2."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("ladder", type=pathlib.Path, metavar="DIR")
  parser.add_argument(
    "--against",
    default="base · YaRN",
    metavar="NAME",
    help="the rival, by its name in the tables (default: %(default)s)",
  )
  args = parser.parse_args()
  try:
    rows = _rows(args.ladder)
  except (FileNotFoundError, ValueError) as error:
    parser.error(str(error))
  scores = runs.scores(rows)
  by_name = {
    palette.label(c.model, c.method): (c.model, c.method) for c in scores
  }
  if args.against not in by_name:
    parser.error(
      f"--against needs one of {', '.join(by_name)}, got {args.against}"
    )
  for measure in MEASURES:
    for fitted in (False, True):
      how = (
        "with a fitted softmax scale" if fitted else "no fitted softmax scale"
      )
      _print(f"{measure.title}, {how}", _values(rows, measure, fitted))
    against = f"{measure.title}: minus {args.against}"
    _print(against, _differences(scores, measure, by_name[args.against]))


def _rows(ladder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the results of all variants, under their names without seeds."""
  paths = sorted(ladder.glob("*/results.json"))
  if not paths:
    raise FileNotFoundError(
      "A folder with a results.json for each variant is required, got none in "
      f"{ladder}. Run tools/ladder.py."
    )
  rows = []
  for path in paths:
    for row in runs.load_results(path)["rows"]:
      variant, _, seed = row["model"].rpartition("_s")
      name = variant if seed.isdigit() else row["model"]
      rows.append({**row, "model": name})
  return rows


def _values(
  rows: Sequence[Mapping[str, Any]], measure: Measure, fitted: bool
) -> dict[Row, dict[float, str]]:
  """Returns the mean over seeds and their range, by row and length."""
  found: dict[Row, dict[float, list[float]]] = {}
  for row in rows:
    if _is(row, measure) and row["scale_fitted"] == fitted:
      by_factor = found.setdefault((row["model"], row["method"]), {})
      by_factor.setdefault(row["factor"], []).append(row["value"])
  return {
    row: {
      factor: _mean_and_range(values, measure.digits)
      for factor, values in by_factor.items()
    }
    for row, by_factor in found.items()
  }


def _mean_and_range(values: Sequence[float], digits: int) -> str:
  mean = f"{sum(values) / len(values):.{digits}f}"
  if len(values) == 1:
    return mean
  return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _differences(
  scores: runs.Scores, measure: Measure, rival: Row
) -> dict[Row, dict[float, str]]:
  """Returns the paired differences to a rival, without fitted scales."""
  found: dict[Row, dict[float, str]] = {}
  for cell, score in scores.items():
    own = (cell.model, cell.method)
    other = cell._replace(model=rival[0], method=rival[1])
    if not _is(cell._asdict(), measure) or cell.scale_fitted or own == rival:
      continue
    if other in scores and (apart := paired.difference(score, scores[other])):
      cells = found.setdefault(own, {})
      cells[cell.factor] = _with_interval(apart, measure.digits)
  return found


def _with_interval(apart: paired.Difference, digits: int) -> str:
  value = f"{apart.value:+.{digits}f}"
  if apart.low is None:
    return value
  return f"{value} [{apart.low:+.{digits}f}, {apart.high:+.{digits}f}]"


def _is(row: Mapping[str, Any], measure: Measure) -> bool:
  return (row["task"], row["metric"]) == (measure.task, measure.metric)


def _print(title: str, table: Mapping[Row, Mapping[float, str]]) -> None:
  factors = sorted({factor for cells in table.values() for factor in cells})
  if not factors:
    return
  print(f"\n| {title} |", " | ".join(f"{f:g}x" for f in factors), "|")
  print("| --- |" + " --- |" * len(factors))
  for row, cells in sorted(table.items()):
    values = (cells.get(factor, "") for factor in factors)
    print(f"| {palette.label(*row)} |", " | ".join(values), "|")


if __name__ == "__main__":
  main()
