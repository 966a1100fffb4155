"""Compares attention kernels' static schedules: ours, JAX's splash, tokamax's.

Compiles each kernel's gradient with the TPU's compiler (no TPU is needed, but
libtpu is: `pip install libtpu`) in bfloat16, causal, 32 heads, and counts the
cycles of its schedule. MFU is the causal multiply-adds of one head (T * T / 2 *
D a matrix product; 2 forward, 5 backward) over what the matrix units could do
in the cycles of all the steps of its grid. A schedule holds no wait for memory:
these are not hardware timings.

Splash and tokamax have the best of some block sizes, each direction its own.
tokamax is compared with where it is installed.

python tools/bench_attention.py --json attention.json
python tools/bench_attention.py --quick
"""

import argparse
from concurrent import futures
import dataclasses
import json
import pathlib
import sys

from attention_schedule import (
  CHIPS,
  PRODUCTS,
  Case,
  has_tokamax,
  kernel_of,
)
import jax
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
import tpu_schedule

_PEER_BLOCKS = {
  4096: ((1024, 1024, 512), (1024, 1024, 1024)),
  32768: ((1024, 2048, 512), (2048, 2048, 256)),
}
_HEAD_DIMS = (64, 128)
_OPTIONS = ("plain", "rotation", "alibi", "window", "segments")
_NOTE = (
  "Static schedules from the TPU's compiler, not hardware timings. Cycles are "
  "those of a tile that causality leaves whole, per 1024 x 1024 logits; MFU is "
  "of the whole causal row, waste and all; x is ours over the row's."
)


@dataclasses.dataclass(frozen=True)
class _Figure:
  """One direction of one case, as it is written."""

  case: Case
  direction: str
  blocks: tuple[int, ...]
  tiles: tuple[int, ...]
  step: int
  conditional: int
  spills: int
  vmem_bytes: int
  temporary_bytes: int
  cycles: int
  mfu: float

  @property
  def tile(self) -> float:
    """Cycles of a whole tile, per 1024 x 1024 logits."""
    q, k = self.case.tile(self.direction)
    return self.tiles[0] * 2**20 / (q * k)


def main() -> None:
  """Compiles everything, prints the tables and writes the figures."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--chips", nargs="+", choices=CHIPS, default=CHIPS, metavar="CHIP"
  )
  parser.add_argument(
    "--quick", action="store_true", help="v5e, 4096 tokens, head_dim 128"
  )
  parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
  parser.add_argument(
    "--jobs", type=int, default=2, metavar="N", help="compilers at a time"
  )
  args = parser.parse_args()
  # Visits are listed here; libtpu is the children's.
  jax.config.update("jax_platforms", "cpu")
  try:
    figures = _measure(_cases(args.chips, args.quick), args.jobs)
  except (tpu_schedule.Unavailable, tpu_schedule.CompileError) as error:
    print(error, file=sys.stderr)
    sys.exit(2)
  console = Console(width=80)
  console.print(_NOTE)
  for table in _tables(figures):
    console.print(table)
  if args.json:
    records = [dataclasses.asdict(figure) for figure in figures]
    document = {"note": _NOTE, "figures": records}
    args.json.write_text(json.dumps(document, indent=1) + "\n")


def _cases(chips: tuple[str, ...], quick: bool) -> list[Case]:
  peers = ["splash", *(["tokamax"] if has_tokamax() else [])]
  cases = []
  for chip in chips[:1] if quick else chips:
    for head_dim in _HEAD_DIMS[1:] if quick else _HEAD_DIMS:
      for tokens, blocks in _PEER_BLOCKS.items():
        if quick and tokens > 4096:
          continue
        cases.append(Case("flash", chip, tokens, head_dim))
        cases += [
          Case(peer, chip, tokens, head_dim, block)
          for peer in peers
          for block in (blocks[:1] if quick else blocks)
        ]
      cases += [
        Case("flash", chip, 4096, head_dim, option=option)
        for option in _OPTIONS[1:]
      ]
  return cases


def _measure(cases: list[Case], jobs: int) -> list[_Figure]:
  console = Console(stderr=True)
  figures = []
  with (
    Progress(console=console) as progress,
    futures.ThreadPoolExecutor(jobs) as pool,
  ):
    task = progress.add_task("compiling", total=len(cases))
    waiting = {pool.submit(case.compiled): case for case in cases}
    try:
      for done in futures.as_completed(waiting):
        case = waiting[done]
        progress.advance(task)
        try:
          program = done.result()
        except tpu_schedule.CompileError as error:
          if case.kernel == "flash":
            raise
          # Its other blocks stand for it.
          console.print(error, markup=False)
          continue
        figures += [_figure(case, direction, program) for direction in PRODUCTS]
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  return sorted(figures, key=lambda figure: cases.index(figure.case))


def _figure(
  case: Case, direction: str, program: tpu_schedule.Program
) -> _Figure:
  kernel = kernel_of(program, direction)
  # The row's visits are those of a plain causal mask.
  cycles = case.cycles(direction, kernel) if case.option == "plain" else 0
  blocks = case.block or dataclasses.astuple(case.blocks(direction))
  return _Figure(
    case=case,
    direction=direction,
    blocks=blocks,
    tiles=kernel.tiles,
    step=kernel.step,
    conditional=kernel.conditional,
    spills=kernel.spills,
    vmem_bytes=kernel.vmem_bytes,
    temporary_bytes=program.temporary_bytes,
    cycles=cycles,
    mfu=case.mfu(direction, cycles) if cycles else 0.0,
  )


def _tables(figures: list[_Figure]):
  """Yields two tables a chip."""
  for chip in dict.fromkeys(figure.case.chip for figure in figures):
    here = [figure for figure in figures if figure.case.chip == chip]
    yield _comparison(chip, here)
    yield _options(chip, here)


def _comparison(chip: str, figures: list[_Figure]) -> Table:
  table = _table(chip)
  for name in ("D", "T", "kernel"):
    table.add_column(name, justify="left" if name == "kernel" else "right")
  for name in ("forward", "backward"):
    table.add_column(f"{name}\ncycles", justify="right")
    table.add_column("\nMFU", justify="right")
    table.add_column("\nx", justify="right")
  table.add_column("HBM temp.\nMiB", justify="right")
  groups = {}
  for figure in figures:
    if figure.case.option == "plain":
      shape = (figure.case.head_dim, figure.case.tokens)
      group = groups.setdefault(shape, {}).setdefault(figure.case.kernel, {})
      group.setdefault(figure.direction, []).append(figure)
  for (head_dim, tokens), kernels in groups.items():
    best = {
      (kernel, direction): max(some, key=lambda figure: figure.mfu)
      for kernel, directions in kernels.items()
      for direction, some in directions.items()
    }
    for kernel in kernels:
      cells = [str(head_dim), str(tokens), kernel]
      for direction in PRODUCTS:
        figure = best[kernel, direction]
        ratio = best["flash", direction].mfu / figure.mfu
        cells += [f"{figure.tile:.0f}", f"{figure.mfu:.3f}", f"{ratio:.2f}"]
      table.add_row(
        *cells, f"{best[kernel, 'backward'].temporary_bytes / 2**20:.0f}"
      )
    table.add_section()
  return table


def _options(chip: str, figures: list[_Figure]) -> Table:
  table = _table(f"{chip}, ours at T=4096: cycles of a tile, by kind")
  table.add_column("D", justify="right")
  table.add_column("with")
  for name in PRODUCTS:
    for kind in ("whole", "diag.", "cut", "both"):
      heading = f"{name}\n{kind}" if kind == "whole" else f"\n{kind}"
      table.add_column(heading, justify="right")
    table.add_column("\nover", justify="right")
  plain = {}
  for figure in figures:
    case = figure.case
    if (case.kernel, case.tokens, case.option) == ("flash", 4096, "plain"):
      plain[case.head_dim, figure.direction] = max(figure.tiles)
  rows = {}
  for figure in figures:
    case = figure.case
    if (case.kernel, case.tokens) != ("flash", 4096):
      continue
    cells = [str(cycles) for cycles in figure.tiles]
    over = max(figure.tiles) / plain[case.head_dim, figure.direction] - 1
    cells += [""] * (4 - len(cells)) + [f"{over:.1%}"]
    rows.setdefault((case.head_dim, case.option), []).extend(cells)
  for (head_dim, option), cells in rows.items():
    table.add_row(str(head_dim), option, *cells)
  return table


def _table(title: str) -> Table:
  return Table(title=title, box=box.SIMPLE_HEAD, padding=0)


if __name__ == "__main__":
  main()
