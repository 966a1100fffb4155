"""Searches how our TPU attention kernel should divide its work.

Each candidate is compiled, and judged by the cycles of its static schedule for
one head's causal attention at 4096 and at 32768 tokens. From the best row of
the table the search moves to a better neighbor until there is none.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import dataclasses
import itertools
import pathlib
from typing import Any

from drope_jax.attention.flash_tpu import block_table
from drope_jax.attention.flash_tpu.blocks import Blocks, nearest, of_row
from drope_jax.perf import schedule
from drope_jax.perf.attention import (
  PRODUCTS,
  Direction,
  flash_cycles,
  kernel_of,
)

_SIZES: dict[str, tuple] = {
  "q": (512, 1024, 2048),
  "unit_q": (128, 256, 512),
  "unit_k": (128, 256, 512),
  "ahead": (1, 2, 3, 4),
  "behind": (0, 1, 2),
  "mxu_total": (False, True),
}
"""Fields of `Blocks` that the search changes. Tiles stay square: hidden units
are skipped in square tiles only. `part` and `undivided` stay as in the table:
undivided tiles have the fewest cycles, but take long to compile."""
_TOKENS = (4096, 32768)
_MOST_UNITS = 128
"""Of a tile: more take minutes to compile."""
_OTHER = Blocks(256, 256, 256, 256, 1, 0)
"""For the direction that is not searched: quick to compile."""


@dataclasses.dataclass
class Search:
  """The search for one entry of the table.

  Attributes:
    chip, head_dim, direction: the entry.
    limit: on compilations.
    report: takes a line for each candidate.
    cycles: of the candidates so far, at each of `_TOKENS`; None for one that
      does not compile.
    fitting: the last best blocks that compile at both lengths.
  """

  chip: str
  head_dim: int
  direction: Direction
  limit: int
  report: Callable[[str], None]
  cycles: dict[Blocks, tuple[float, ...] | None] = dataclasses.field(
    default_factory=dict
  )
  fitting: Blocks | None = None

  def run(self, pool: futures.Executor) -> Blocks:
    """Returns the best blocks found."""
    now = nearest(self.chip, self.head_dim, self.direction)
    known = [
      dataclasses.replace(of_row(row), part=now.part, undivided=now.undivided)
      for row in block_table.ROWS
      if row[2] == self.direction
    ]
    best, before = self._best(pool, known), None
    while best != before and len(self.cycles) < self.limit:
      best, before = self._best(pool, [best, *neighbors(best)]), best
    return best

  def _best(self, pool: futures.Executor, some: list[Blocks]) -> Blocks:
    new = [
      blocks for blocks in dict.fromkeys(some) if blocks not in self.cycles
    ]
    for blocks, cycles in zip(new, pool.map(self._measure, new), strict=True):
      self.cycles[blocks] = cycles
      entry = f"{self.chip} {self.head_dim} {self.direction}"
      self.report(f"{entry} {blocks} {cycles or 'does not compile'}")
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

  def _measure(self, blocks: Blocks) -> tuple[float, ...] | None:
    try:
      program = self._compiled(blocks, _TOKENS[0])
    except schedule.CompileError:
      return None
    kernel = kernel_of(program, self.direction)
    return tuple(
      flash_cycles(self.direction, kernel, blocks, T, self.head_dim)
      for T in _TOKENS
    )

  def _fits(self, blocks: Blocks) -> bool:
    """Returns whether the longer sequence compiles too, within VMEM."""
    try:
      self._compiled(blocks, _TOKENS[-1])
    except schedule.CompileError:
      return False
    return True

  def _compiled(self, blocks: Blocks, tokens: int) -> schedule.Program:
    kwargs: dict[str, Any] = dict.fromkeys(
      PRODUCTS, dataclasses.astuple(_OTHER)
    )
    kwargs |= {
      self.direction: dataclasses.astuple(blocks),
      "tokens": tokens,
      "head_dim": self.head_dim,
      "gradient": self.direction == "backward",
    }
    return schedule.compiled(
      "drope_jax.perf.attention_targets:flash", f"{self.chip}:2x2", kwargs
    )


def neighbors(blocks: Blocks) -> Iterator[Blocks]:
  """Yields the blocks that differ in one size by one step."""
  for (name, sizes), step in itertools.product(_SIZES.items(), (-1, 1)):
    at = sizes.index(getattr(blocks, name)) + step
    if 0 <= at < len(sizes):
      change = {name: sizes[at]} | ({"k": sizes[at]} if name == "q" else {})
      near = dataclasses.replace(blocks, **change)
      if near.q * near.k <= _MOST_UNITS * near.unit_q * near.unit_k:
        yield near


def row(blocks: Blocks, cycles: tuple[float, ...]) -> tuple:
  """Returns a row of the table, without its entry.

  Args:
    blocks: with square tiles; the chip decides what they have of VMEM.
    cycles: at each of `_TOKENS`.
  """
  return (*dataclasses.astuple(blocks)[1:-1], *map(round, cycles))


def write_table(rows: Mapping[tuple[str, int, str], tuple]) -> None:
  """Rewrites the table's file below its heading.

  Args:
    rows: by entry: chip, head_dim and direction.
  """
  file = pathlib.Path(block_table.__file__)
  heading, _, _ = file.read_text().partition("  (")
  for (chip, head_dim, direction), rest in sorted(rows.items()):
    heading += f'  ("{chip}", {head_dim}, "{direction}", {str(rest)[1:-1]}),\n'
  file.write_text(heading + ")\n")
