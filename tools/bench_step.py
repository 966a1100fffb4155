"""Compares training steps' cycles by the TPU's own compiler, without a TPU.

Each row compiles Llama 2 7B's step at 512 x 4096 tokens for a slice, in a
process of its own, and sums its cycles by both counts of
drope_jax/perf/program. The last rows are MaxText's (e591f30, jax 0.11.2) by the
same counts, from its own train_compile with libtpu 0.0.51 at the same shapes.
GiB are a chip's temporaries; MFU is by the causal count. No count is a hardware
timing. A row takes four minutes of a core, and 4 GiB.

python tools/bench_step.py
python tools/bench_step.py --rows 'v5e-256 save_context' --json step.json
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from drope_jax.attention.flash_tpu import blocks
from drope_jax.cli import configure
from drope_jax.model.config import ModelConfig
from drope_jax.perf import attention, bundles, compiler, flops, hlo, schedule
from drope_jax.perf import program as program_cycles
from drope_jax.perf.chips import CORES
from drope_jax.plan import slices, training
from drope_jax.positional import Nope, Rope
from drope_jax.train.phases import TrainPhase
from drope_jax.train.recipe import Recipe

_POSITIONAL = {"rope": Rope(), "nope": Nope()}


@dataclasses.dataclass(frozen=True)
class _Row:
  """A step.

  Attributes:
    topology: the slice's name.
    remat, positional, qk_norm: the step's.
    options: of the compiler.
  """

  topology: str
  remat: str
  positional: str = "rope"
  qk_norm: str = "none"
  options: tuple[tuple[str, str], ...] = ()

  @property
  def name(self) -> str:
    """What --rows matches."""
    parts = [self.topology, self.remat, self.positional]
    parts += ["QK norm"] * (self.qk_norm != "none")
    parts += ["12 GB kept free"] * bool(self.options)
    return " ".join(parts)


_KEPT_FREE = (("xla_tpu_user_reserved_hbm_bytes", "12000000000"),)
_ROWS = (
  _Row("v5e-256", "full"),
  _Row("v5e-256", "full", options=_KEPT_FREE),
  _Row("v5e-256", "save_context"),
  _Row("v5e-256", "save_context", "nope"),
  _Row("v5e-256", "save_context", "nope", "qk"),
  _Row("v5p-128", "save_context"),
)
_MAXTEXT = (
  ("v5e-256 full", 3.95, 5269, 4588, 0.508, 0.584),
  ("v5e-256 save_qkv_proj", 9.93, 4757, 4282, 0.563, 0.626),
  ("v5p-128 save_qkv_proj", 41.0, 9510, 8623, 0.563, 0.621),
  ("v5p-128 minimal", 89.6, 9844, 8231, 0.544, 0.651),
)
"""Temporaries in GiB, cycles in millions, and MFU; splash's blocks of 1024."""


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--rows", default="", metavar="REGEX", help="which rows")
  parser.add_argument("--json", metavar="FILE", help="write the figures too")
  parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    print(json.dumps(_measure(_Row(**args.child))))
    return
  console, figures = Console(stderr=True), {}
  for row in _ROWS:
    if re.search(args.rows, row.name):
      with console.status(f"compiling {row.name}"):
        figures[row.name] = _in_child(row)
      console.print(f"{row.name}: {figures[row.name]}")
  _print(figures)
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


def _in_child(row: _Row) -> dict[str, Any]:
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, __file__, "--child"]
    command.append(json.dumps(dataclasses.asdict(row)))
    environment = bundles.environment(folder) | {"DUMP": folder}
    out = subprocess.run(
      command, check=True, stdout=subprocess.PIPE, env=environment
    )
  return json.loads(out.stdout.splitlines()[-1])


def _measure(row: _Row) -> dict[str, Any]:
  """Compiles a step here, in the child, and sums its cycles."""
  compiler.prepare()
  target = slices.parse(row.topology)
  core = CORES[target.chip]
  recipe = configure.build("recipes/llama2_7b_drope.gin", Recipe, [])
  (phase,) = (p for p in recipe.phases if isinstance(p, TrainPhase))
  phase = dataclasses.replace(phase, remat=row.remat)
  recipe = dataclasses.replace(
    recipe, phases=(phase,), compiler_options=dict(row.options)
  )
  config = dataclasses.replace(
    configure.build("models/llama2_7b.gin", ModelConfig),
    positional=_POSITIONAL[row.positional],
    qk_norm=row.qk_norm,
  )
  lowered, (state, _), mesh = training.lower(recipe, phase, config, target)
  program = compiler.compile(lowered)
  sequences = phase.batch_size // target.chips
  tokens = sequences * phase.context_tokens

  def kernel_cycles(name: str, dump: str) -> float:
    direction = "forward" if "forward" in name else "backward"
    division = blocks.nearest(target.chip, config.head_dim, direction)
    head = attention.flash_cycles(
      direction,
      schedule.read_kernel(name, dump),
      division,
      phase.context_tokens,
      config.head_dim,
      group_size=config.num_heads // config.num_kv_heads,
    )
    return head * config.num_heads * sequences / core.count

  found = program_cycles.total(
    hlo.Module(program.text),
    pathlib.Path(os.environ["DUMP"]),
    target.chip,
    kernel_cycles,
  )
  work = flops.of_token(config, phase.context_tokens).causal * tokens
  peak = flops.peak(mesh.devices.flat[0].device_kind)
  return {
    "temporaries": program.bytes - compiler.bytes_per_device(state),
    "cycles": found.total._asdict(),
    "parts": {name: part._asdict() for name, part in found.parts.items()},
    "mfu": {
      count: work / peak / (cycles / core.clock_hz)
      for count, cycles in found.total._asdict().items()
    },
  }


def _print(figures: dict[str, dict[str, Any]]) -> None:
  table = Table(
    box=box.SIMPLE_HEAD,
    caption="cycles in millions, by the compiler's estimate and its schedule",
  )
  table.add_column("step")
  for name in ("GiB", "est.", "sched.", "MFU est.", "MFU sched."):
    table.add_column(name, justify="right")
  for name, row in figures.items():
    cycles = (count / 1e6 for count in row["cycles"].values())
    _add(table, name, row["temporaries"] / 2**30, *cycles, *row["mfu"].values())
  table.add_section()
  for name, *counts in _MAXTEXT:
    _add(table, f"MaxText {name}", *counts)
  Console().print(table)


def _add(table, name, gibibytes, estimate, schedule, *mfus) -> None:
  cells = (f"{gibibytes:.2f}", f"{estimate:,.0f}", f"{schedule:,.0f}")
  table.add_row(name, *cells, *(f"{mfu:.1%}" for mfu in mfus))


if __name__ == "__main__":
  main()
