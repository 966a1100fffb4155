"""The launcher's command line."""

import argparse
from collections.abc import Collection
import math

from drope_jax.cli import terminal
from launch import order, states, watch


def parser(verbs: Collection[str], description: str) -> argparse.ArgumentParser:
  """Returns the parser of the command line.

  Args:
    verbs: that it knows.
    description: of all, for --help.
  """
  common = terminal.Parser(add_help=False)
  common.add_argument(
    "--config",
    required=True,
    metavar="FILE.toml",
    help="the description of the slices, such as "
    "launch/slices/v5e-16-spot.toml",
  )
  common.add_argument(
    "--dry-run",
    action="store_true",
    help="print the commands as argument lists, and run none",
  )
  whole = terminal.Parser(
    prog="launch",
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  under = whole.add_subparsers(
    dest="verb", required=True, metavar="VERB", parser_class=terminal.Parser
  )
  made = {
    verb: under.add_parser(verb, parents=[common], allow_abbrev=False)
    for verb in verbs
  }
  _add_run_arguments(made["run"])
  _add_watch_arguments(made["watch"])
  for verb in ("logs", "ssh"):
    made[verb].add_argument(
      "--host",
      type=int,
      default=0,
      metavar="N",
      help="number of the host, counted over all slices (default: 0)",
    )
  made["logs"].add_argument(
    "--attempt", type=int, metavar="N", help="default: the newest"
  )
  made["ssh"].add_argument(
    "--command", metavar="WORDS", help="run this instead of a login"
  )
  made["delete"].add_argument(
    "--yes", action="store_true", help="do not ask first"
  )
  return whole


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "recipe", metavar="RECIPE.gin", help="a file, or a shipped recipe's name"
  )
  parser.add_argument(
    "--set",
    action="append",
    default=[],
    dest="overrides",
    metavar="BINDING",
    help="as `drope train --set`; may be repeated",
  )
  parser.add_argument(
    "--data",
    metavar="gs://DIR",
    help="where the recipe's stores are (default: the description's bucket)",
  )
  parser.add_argument(
    "--out",
    metavar="gs://DIR",
    help="the run's folder (default: BUCKET/runs/RECIPE)",
  )
  parser.add_argument(
    "--report-every-s",
    type=_seconds,
    default=order.Order.report_every_s,
    metavar="SECONDS",
    help="between a host's reports (default: %(default)s)",
  )


def _add_watch_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--retries",
    type=_count,
    default=states.Policy.retries,
    metavar="N",
    help="restarts after crashes, over the whole run (default: %(default)s)",
  )
  parser.add_argument(
    "--keep",
    action="store_true",
    help="keep the slices, and pay for them, after the end of the run",
  )
  parser.add_argument(
    "--look-every-s",
    type=_seconds,
    default=watch.LOOK_EVERY_S,
    metavar="SECONDS",
    help="between looks (default: %(default)s)",
  )
  parser.add_argument(
    "--settle-s",
    type=_seconds,
    default=states.Policy.settle_s,
    metavar="SECONDS",
    help="for other hosts to end after one has (default: %(default)s)",
  )
  parser.add_argument(
    "--join-s",
    type=_seconds,
    default=states.Policy.join_s,
    metavar="SECONDS",
    help="for all hosts to begin (default: %(default)s)",
  )


def _seconds(text: str) -> float:
  try:
    seconds = float(text)
  except ValueError:
    seconds = math.nan
  if not 0 < seconds < math.inf:
    raise argparse.ArgumentTypeError(f"must be seconds above 0, got {text!r}")
  return seconds


def _count(text: str) -> int:
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f"must be 0 or more, got {text!r}")
  return int(text)
