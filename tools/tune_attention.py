"""Searches block sizes for our TPU attention kernel, and writes their table.

Each candidate is compiled with the TPU's compiler (no TPU is needed, but libtpu
is: `pip install libtpu`) and judged by the cycles that its schedule takes for
one head's causal row, at 4096 and at 32768 tokens alike. From the best of the
table's rows the search moves to a better neighbour until there is none.

python tools/tune_attention.py --chips v5e v6e --head-dims 64 128
"""

import argparse
from collections.abc import Iterator
from concurrent import futures
import dataclasses
import itertools
import pathlib
import sys

from attention_schedule import (
  CHIPS,
  PRODUCTS,
  flash_cycles,
  kernel_of,
)
import jax
import tpu_schedule

from drope_jax.attention.flash_tpu import block_table
from drope_jax.attention.flash_tpu.units import Blocks

_SIZES = {
  "tile": (512, 1024, 2048),
  "unit_q": (128, 256, 512),
  "unit_k": (128, 256, 512),
  "ahead": (1, 2, 3, 4),
  "behind": (0, 1, 2),
  "mxu_total": (False, True),
}
"""Tiles are square: only of those on the diagonal are hidden units skipped."""
_TOKENS = (4096, 32768)
_MOST_UNITS = 128
"""Of a tile. They are unrolled: more take minutes to compile."""
_OTHER = Blocks(256, 256, 256, 256, 1, 0)
"""Of the direction that is not searched: quick to compile."""


@dataclasses.dataclass
class _Search:
  """One entry's search.

  Attributes:
    chip, head_dim, direction: the entry.
    limit: on compilations.
    cycles: found so far at each of `_TOKENS`; none where it does not compile.
    fitting: the last blocks that were the best and compile for both.
  """

  chip: str
  head_dim: int
  direction: str
  limit: int
  cycles: dict[Blocks, tuple[int, ...] | None] = dataclasses.field(
    default_factory=dict
  )
  fitting: Blocks | None = None

  def run(self, pool: futures.Executor) -> Blocks:
    """Returns the best blocks found."""
    known = [
      Blocks(*row[3:10]) for row in block_table.ROWS if row[2] == self.direction
    ]
    best, before = self._best(pool, known), None
    while best != before and len(self.cycles) < self.limit:
      best, before = self._best(pool, [best, *_neighbours(best)]), best
    return best

  def _best(self, pool: futures.Executor, some: list[Blocks]) -> Blocks:
    new = [
      blocks for blocks in dict.fromkeys(some) if blocks not in self.cycles
    ]
    for blocks, cycles in zip(new, pool.map(self._measure, new), strict=True):
      self.cycles[blocks] = cycles
      print(
        *(self.chip, self.head_dim, self.direction),
        dataclasses.astuple(blocks),
        cycles or "does not compile",
        file=sys.stderr,
        flush=True,
      )
    for blocks in sorted(some, key=self._cost):
      if blocks == self.fitting or self._fits(blocks):
        self.fitting = blocks
        return blocks
    raise ValueError(
      f"Some blocks must compile for {self.chip}, head_dim {self.head_dim}, "
      f"{self.direction}, got none of {some}. Correct the table's rows."
    )

  def _cost(self, blocks: Blocks) -> float:
    cycles = self.cycles[blocks]
    if cycles is None:
      return float("inf")
    return sum(n / T**2 for n, T in zip(cycles, _TOKENS, strict=True))

  def _measure(self, blocks: Blocks) -> tuple[int, ...] | None:
    try:
      program = self._compiled(blocks, _TOKENS[0])
    except tpu_schedule.CompileError:
      return None
    kernel = kernel_of(program, self.direction)
    return tuple(
      flash_cycles(self.direction, kernel, blocks, T) for T in _TOKENS
    )

  def _fits(self, blocks: Blocks) -> bool:
    """Returns whether the longer row compiles too, in the VMEM there is."""
    try:
      self._compiled(blocks, _TOKENS[-1])
    except tpu_schedule.CompileError:
      return False
    return True

  def _compiled(self, blocks: Blocks, tokens: int) -> tpu_schedule.Program:
    kwargs = {direction: dataclasses.astuple(_OTHER) for direction in PRODUCTS}
    kwargs |= {
      self.direction: dataclasses.astuple(blocks),
      "tokens": tokens,
      "head_dim": self.head_dim,
      "gradient": self.direction == "backward",
    }
    return tpu_schedule.compiled(
      "attention_schedule:flash", f"{self.chip}:2x2", kwargs
    )


def _neighbours(blocks: Blocks) -> Iterator[Blocks]:
  """Yields blocks that differ by one step."""
  tile, _, *rest = dataclasses.astuple(blocks)
  current = dict(zip(_SIZES, (tile, *rest), strict=True))
  for (name, sizes), step in itertools.product(_SIZES.items(), (-1, 1)):
    at = sizes.index(current[name]) + step
    if 0 <= at < len(sizes):
      tile, *rest = (current | {name: sizes[at]}).values()
      near = Blocks(tile, tile, *rest)
      if near.q * near.k <= _MOST_UNITS * near.unit_q * near.unit_k:
        yield near


def _write(rows: dict[tuple, tuple]) -> None:
  """Rewrites the table below its heading."""
  file = pathlib.Path(block_table.__file__)
  heading = file.read_text().partition("  (")[0]
  lines = [
    f'  ("{chip}", {head_dim}, "{direction}", {str(rest)[1:-1]}),\n'
    for (chip, head_dim, direction), rest in sorted(rows.items())
  ]
  file.write_text(heading + "".join(lines) + ")\n")


def main() -> None:
  """Searches each entry and writes it as soon as it is found."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--chips", nargs="+", choices=CHIPS, default=CHIPS, metavar="CHIP"
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
  # Visits are listed here; libtpu is the children's.
  jax.config.update("jax_platforms", "cpu")
  rows = {row[:3]: row[3:] for row in block_table.ROWS}
  entries = itertools.product(args.chips, args.head_dims, args.directions)
  try:
    with futures.ThreadPoolExecutor(args.jobs) as pool:
      for entry in entries:
        search = _Search(*entry, limit=args.limit)
        best = search.run(pool)
        cycles = search.cycles[best]
        rows[entry] = (*dataclasses.astuple(best), *cycles)
        _write(rows)
        tried = len(search.cycles)
        print(*entry, best, f"{cycles} cycles, {tried} tried", flush=True)
  except (tpu_schedule.Unavailable, tpu_schedule.CompileError) as error:
    print(error, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
