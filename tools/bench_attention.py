"""Compares attention kernels' static schedules: ours, JAX's splash, tokamax's.

Compiles each kernel's gradient with the TPU's compiler (no TPU is needed, but
libtpu is: `pip install libtpu`) in bfloat16, causal, with 32 heads, and counts
the cycles of its schedule. MFU is the causal multiply-adds of one head (T * T /
2 * D a matrix product; 2 forward, 5 backward) over those of the matrix units'
peak in the cycles of all steps of its grid. A schedule includes no wait for
memory: these are not hardware timings.

Splash and tokamax have the best of some block sizes for each direction. tokamax
is included if it is installed.

With --compile-time it compares the CPU seconds of compiling ours and splash.

python tools/bench_attention.py --json attention.json
python tools/bench_attention.py --quick
python tools/bench_attention.py --compile-time --chips v5e
"""

import argparse
from concurrent import futures
import dataclasses
import itertools
import json
import pathlib
import sys

import jax
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from drope_jax.perf import chips, schedule
from drope_jax.perf.attention import PRODUCTS, Case, has_tokamax, kernel_of
from drope_jax.perf.attention_targets import OPTIONS

_PEER_BLOCKS = {
  4096: ((1024, 1024, 512), (1024, 1024, 1024)),
  32768: ((1024, 2048, 512), (2048, 2048, 256)),
}
_HEAD_DIMS = (64, 128)
_COMPILED_HEAD_DIMS = (64, 128, 192, 256)
"""Those of `--compile-time`."""
_NOTE = (
  "Static schedules from the TPU's compiler, not hardware timings. Cycles are "
  "those of one head; MFU is causal; x is ours over the row's. A window and "
  "documents have 1,024 tokens."
)


@dataclasses.dataclass(frozen=True)
class _Figure:
  """One direction of one case, as it is written."""

  case: Case
  direction: str
  blocks: tuple[int, ...]
  kernel: schedule.Kernel
  temporary_bytes: int
  cycles: float
  mfu: float


def main() -> None:
  """Compiles everything, prints the tables and writes the figures."""
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
    "--quick", action="store_true", help="v5e, 4096 tokens, head_dim 128"
  )
  parser.add_argument(
    "--compile-time",
    action="store_true",
    help="of gradients at 4096 tokens, instead of the comparison of cycles",
  )
  parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
  parser.add_argument(
    "--jobs", type=int, default=2, metavar="N", help="compilers at a time"
  )
  args = parser.parse_args()
  if args.compile_time and (args.quick or args.json):
    parser.error("--quick and --json do not apply to --compile-time")
  # Only the compilers' processes use libtpu.
  jax.config.update("jax_platforms", "cpu")
  try:
    if args.compile_time:
      _compare_compile_time(args.chips)
      return
    figures = _measure(_cases(args.chips, args.quick), args.jobs)
  except ValueError as error:
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


def _compare_compile_time(names: list[str]) -> None:
  """Prints a line for each chip, head size and mask as soon as it is known."""
  print("chip   D mask    ours s  splash s     x  forward  backward cycles")
  for chip, head_dim in itertools.product(names, _COMPILED_HEAD_DIMS):
    peer = Case("splash", chip, 4096, head_dim, _PEER_BLOCKS[4096][0])
    peer_s = peer.compile_cpu_s()
    for mask, option in (("causal", "plain"), ("window", "window")):
      ours = Case("flash", chip, 4096, head_dim, option=option)
      ours_s, program = ours.compile_cpu_s(), ours.compiled()
      forward, backward = (
        ours.cycles(direction, kernel_of(program, direction))
        for direction in PRODUCTS
      )
      print(
        f"{chip} {head_dim:4} {mask} {ours_s:8.1f} {peer_s:9.1f} "
        f"{ours_s / peer_s:5.2f} {forward:8,.0f} {backward:9,.0f}",
        flush=True,
      )


def _cases(names: list[str], quick: bool) -> list[Case]:
  peers = ["splash", *(["tokamax"] if has_tokamax() else [])]
  cases = []
  for chip in names[:1] if quick else names:
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
        for option in OPTIONS[1:]
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
        except schedule.CompileError as error:
          if case.kernel == "flash":
            raise
          # Its other blocks are compared.
          console.print(error, markup=False)
          continue
        figures += [_figure(case, direction, program) for direction in PRODUCTS]
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  return sorted(figures, key=lambda figure: cases.index(figure.case))


def _figure(case: Case, direction: str, program: schedule.Program) -> _Figure:
  kernel = kernel_of(program, direction)
  cycles = case.cycles(direction, kernel)
  return _Figure(
    case=case,
    direction=direction,
    blocks=case.block or dataclasses.astuple(case.blocks(direction)),
    kernel=kernel,
    temporary_bytes=program.temporary_bytes,
    cycles=cycles,
    mfu=case.mfu(direction, cycles),
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
        cells += [f"{figure.cycles:,.0f}", f"{figure.mfu:.3f}", f"{ratio:.2f}"]
      table.add_row(
        *cells, f"{best[kernel, 'backward'].temporary_bytes / 2**20:.0f}"
      )
    table.add_section()
  return table


def _options(chip: str, figures: list[_Figure]) -> Table:
  table = _table(f"{chip}, ours at T=4096")
  table.add_column("D", justify="right")
  table.add_column("with")
  rows, plain = {}, {}
  for figure in figures:
    case = figure.case
    if (case.kernel, case.tokens) != ("flash", 4096):
      continue
    if case.option == "plain":
      plain[case.head_dim, figure.direction] = figure.cycles
    ratio = figure.cycles / plain[case.head_dim, figure.direction]
    cells = rows.setdefault((case.head_dim, case.option), [])
    cells += [f"{figure.cycles:,.0f}", f"{ratio:.2f}"]
  for name in PRODUCTS:
    table.add_column(f"{name}\ncycles", justify="right")
    table.add_column("\nover plain", justify="right")
  for (head_dim, option), cells in rows.items():
    table.add_row(str(head_dim), option, *cells)
  return table


def _table(title: str) -> Table:
  return Table(title=title, box=box.SIMPLE_HEAD, padding=0)


if __name__ == "__main__":
  main()
