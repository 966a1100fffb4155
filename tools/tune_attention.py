"""Searches block sizes for our TPU attention kernel, and writes their table.

Each candidate is compiled with the TPU's compiler; no TPU is needed, but libtpu
is: `pip install libtpu`. drope_jax/perf/search.py says how they are compared.

python tools/tune_attention.py --chips v5e v6e --head-dims 64 128
"""

import argparse
from concurrent import futures
import itertools
import sys

import jax

from drope_jax.attention.flash_tpu import block_table
from drope_jax.perf import chips, search
from drope_jax.perf.attention import PRODUCTS


def _report(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def main() -> None:
  """Searches each entry and writes it as soon as it is found."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--chips",
    nargs="+",
    choices=chips.CORES,
    default=[*chips.CORES],
    metavar="CHIP",
  )
  parser.add_argument(
    "--head-dims", nargs="+", type=int, default=(64, 128, 256), metavar="D"
  )
  parser.add_argument(
    "--directions",
    nargs="+",
    choices=tuple(PRODUCTS),
    default=tuple(PRODUCTS),
    metavar="DIRECTION",
  )
  parser.add_argument(
    "--limit", type=int, default=60, metavar="N", help="compilations an entry"
  )
  parser.add_argument(
    "--jobs", type=int, default=2, metavar="N", help="compilers at a time"
  )
  args = parser.parse_args()
  # Only the compilers' processes use libtpu.
  jax.config.update("jax_platforms", "cpu")
  rows = {row[:3]: row[3:] for row in block_table.ROWS}
  entries = itertools.product(args.chips, args.head_dims, args.directions)
  try:
    with futures.ThreadPoolExecutor(args.jobs) as pool:
      for entry in entries:
        found = search.Search(*entry, args.limit, _report)
        best = found.run(pool)
        cycles = found.cycles[best]
        rows[entry] = search.row(best, cycles)
        search.write_table(rows)
        tried = len(found.cycles)
        print(*entry, best, f"{cycles} cycles, {tried} tried", flush=True)
  except ValueError as error:
    print(error, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
