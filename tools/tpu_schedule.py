"""Prints the static schedule of a program's TPU kernels, without a TPU.

libtpu holds the TPU's compiler, which runs on any x86 Linux machine. A program
is compiled with it in a process of its own, for a topology given by name, and
the instruction bundles it dumps are counted: one a cycle, empty ones included,
which the scheduler puts where it must wait. Counts repeat exactly from run to
run. They hold no wait for memory or network: these are not hardware timings,
but bounds from below, fit to compare kernels with.

FUNCTION takes the keywords of --kwargs and returns a function to compile and
its arguments, as jax.ShapeDtypeStructs.

python tools/tpu_schedule.py my_module:my_function --topology v6e:2x2
"""

import argparse
from collections.abc import Iterator, Mapping
import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

_BUNDLES = "packed-bundles-post-ra"
"""The last stage that still has the empty bundles."""
_ALLOCATIONS = "pre-auto-mxu-assigner"
DELAY_SLOTS = 4
"""Bundles after a branch that run whether or not it is taken."""
_BUNDLE = re.compile(r"^\s*(0x[0-9a-f]+|0)\s+(?:[A-Z]{2}\s*)?:[\s>]*\{")
_BRANCH = re.compile(r"sbr\.\w+ .*?target bundleno = (\d+)")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_SPILL = re.compile(r"\bvst\S* \[vmem:\[#allocation\d+_spill\]")
_VMEM = re.compile(r"#allocation\d+ \[.*?space=vmem, size = (0x[0-9a-f]+)")


class Unavailable(RuntimeError):
  """There is no compiler to ask."""


class CompileError(RuntimeError):
  """The compiler refused the program."""


@dataclasses.dataclass(frozen=True)
class Kernel:
  """Where the cycles of one step of a kernel's grid go.

  Attributes:
    name: the kernel's.
    step: cycles that every step takes.
    tiles: of each piece of code with matrix products, in program order. A step
      runs one of them or none.
    before, after: of each piece without any that runs at some steps only,
      before the first tile's and after it.
    spills: vector registers stored to VMEM for want of room, in all.
    vmem_bytes: of windows and scratch, without spills.
  """

  name: str
  step: int
  tiles: tuple[int, ...]
  before: tuple[int, ...]
  after: tuple[int, ...]
  spills: int
  vmem_bytes: int = 0

  @property
  def conditional(self) -> int:
    """Cycles of all that some steps run beside a tile."""
    return sum(self.before) + sum(self.after)


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    kernels: those with matrix products in a loop, by name.
    temporary_bytes: of HBM, beside arguments and results.
    accessed_bytes: read and written by all operations, by XLA's count, which
      takes the body of a loop once.
  """

  kernels: Mapping[str, Kernel]
  temporary_bytes: int
  accessed_bytes: int

  def kernel(self, pattern: str) -> Kernel:
    """Returns the one kernel whose name matches a regular expression."""
    found = [k for name, k in self.kernels.items() if re.search(pattern, name)]
    if len(found) != 1:
      raise ValueError(
        f"One kernel's name must match {pattern!r}, got "
        f"{[kernel.name for kernel in found]} of {sorted(self.kernels)}. "
        "Change the pattern."
      )
    return found[0]


class _Span(NamedTuple):
  start: int
  stop: int

  def holds(self, other: "_Span") -> bool:
    inside = self.start <= other.start and other.stop <= self.stop
    return inside and self != other

  @property
  def cycles(self) -> int:
    return self.stop - self.start


def read_kernel(name: str, dump: str) -> Kernel | None:
  """Returns what a dump of a kernel's bundles says, or None without products.

  A branch backwards closes a loop. One forwards passes over a region, which
  then runs at some steps only. The grid is the innermost loop with products;
  its tiles are the innermost regions of it with products.

  Args:
    name: the kernel's.
    dump: the text of the packed bundles.
  """
  bundles = split(dump)
  products = [n for n, text in enumerate(bundles) if "vmatmul" in text]

  def multiplies(span: _Span) -> bool:
    return any(span.start <= n < span.stop for n in products)

  loops, regions = {}, set()
  for n, text in enumerate(bundles):
    for target in map(int, _BRANCH.findall(text)):
      after = n + 1 + DELAY_SLOTS
      if target <= n:
        loops[target] = max(loops.get(target, 0), min(after, len(bundles)))
      elif after < target:
        regions.add(_Span(after, target))
  nests = [_Span(*loop) for loop in loops.items() if multiplies(_Span(*loop))]
  nests = [a for a in nests if not any(a.holds(b) for b in nests)]
  if not nests:
    return None
  grid = max(nests, key=lambda loop: sum(n in range(*loop) for n in products))
  regions = {region for region in regions if grid.holds(region)}
  working = {region for region in regions if multiplies(region)}
  tiles = [a for a in working if not any(a.holds(b) for b in working)] or [grid]
  idle = regions - working
  idle = sorted(a for a in idle if not any(b.holds(a) for b in idle))
  first = min(tiles).start
  tile_cycles = [
    tile.cycles - sum(part.cycles for part in idle if tile.holds(part))
    for tile in sorted(tiles)
  ]
  conditional = sum(part.cycles for part in idle)
  return Kernel(
    name=name,
    step=grid.cycles - sum(tile_cycles) - conditional,
    tiles=tuple(tile_cycles),
    before=tuple(part.cycles for part in idle if part.start < first),
    after=tuple(part.cycles for part in idle if part.start >= first),
    spills=sum(len(_SPILL.findall(text)) for text in bundles),
  )


def split(dump: str) -> list[str]:
  """Returns the bundles' text by address, without comments."""
  bundles = []
  for line in dump.splitlines():
    if found := _BUNDLE.match(line):
      if int(found[1], 16) != len(bundles):
        raise ValueError(
          f"Bundles must be in order, got {found[1]} after {len(bundles)} of "
          "them. Use the libtpu that this was written for, 0.0.51."
        )
      bundles.append(line)
    elif bundles:
      bundles[-1] += "\n" + line
  return [_COMMENT.sub("", text) for text in bundles]


def compiled(target: str, topology: str, kwargs: Mapping[str, Any]) -> Program:
  """Compiles a function in a process of its own and reads its schedule.

  Args:
    target: MODULE:FUNCTION, as in this file's docstring.
    topology: "v5e:2x2", say; the program is for its first device.
    kwargs: of the function.

  Raises:
    Unavailable: if libtpu is not installed.
    CompileError: if the program does not compile.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise Unavailable(
      "Static schedules need libtpu, the TPU's compiler, which is not "
      "installed. Run: pip install libtpu"
    )
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, __file__, target, "--topology", topology]
    command += ["--kwargs", json.dumps(kwargs), "--child"]
    ran = subprocess.run(
      command, capture_output=True, env=environment(folder), text=True
    )
    if ran.returncode:
      lines = ran.stderr.strip().splitlines() or ["no message"]
      raise CompileError(
        f"{target} does not compile for {topology} with {dict(kwargs)}: "
        f"{_reason(lines)}"
      )
    return Program(
      kernels={k.name: k for k in _read(pathlib.Path(folder))},
      **json.loads(ran.stdout.splitlines()[-1]),
    )


def _reason(lines: list[str]) -> str:
  errors = [
    line for line in lines if re.match(r"[\w.]*(Error|Exception):", line)
  ]
  return (errors or lines)[-1][:400]


def environment(folder: str) -> dict[str, str]:
  """Returns that in which libtpu compiles without a TPU, and dumps its code."""
  variables = dict(os.environ)
  # What comes from a cache is not compiled, and leaves no dump.
  variables.pop("JAX_COMPILATION_CACHE_DIR", None)
  flags = {
    "xla_jf_dump_to": folder,
    "xla_jf_dump_llo_text": "true",
    "xla_jf_dump_llo_pass_label_regex": f"{_BUNDLES}|{_ALLOCATIONS}",
  }
  return variables | {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "JAX_PLATFORMS": "cpu",
    "LIBTPU_INIT_ARGS": " ".join(f"--{k}={v}" for k, v in flags.items()),
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
  }


def dumped(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the file of each operation's bundles, by the operation's name."""
  pattern = re.compile(rf"\d+-(?!TLP-|<)(.*)-\d\d-{_BUNDLES}\.txt")
  found = ((pattern.fullmatch(file.name), file) for file in folder.iterdir())
  return {match[1]: file for match, file in sorted(found, key=str) if match}


def _read(folder: pathlib.Path) -> Iterator[Kernel]:
  """Yields the kernels of a dump."""
  for name, file in dumped(folder).items():
    if kernel := read_kernel(name, file.read_text(errors="replace")):
      stem = re.sub(rf"-\d\d-{_BUNDLES}\.txt", "", file.name)
      sizes = [
        int(size, 16)
        for allocations in folder.glob(f"{stem}-??-{_ALLOCATIONS}.txt")
        for size in _VMEM.findall(allocations.read_text(errors="replace"))
      ]
      yield dataclasses.replace(kernel, vmem_bytes=sum(sizes))


def _compile(
  target: str, topology: str, kwargs: dict[str, Any]
) -> dict[str, int]:
  """Compiles here, in the child; returns `Program`'s other attributes."""
  # Here, since the parent needs no JAX.
  import jax
  from jax.experimental import topologies

  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  ).devices
  module, _, name = target.partition(":")
  function, arguments = getattr(importlib.import_module(module), name)(**kwargs)
  one = jax.sharding.SingleDeviceSharding(devices[0])
  arguments = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), arguments
  )
  program = jax.jit(function).lower(*arguments).compile()
  return {
    "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    "accessed_bytes": int(program.cost_analysis()["bytes accessed"]),
  }


def main() -> None:
  """Prints each kernel's schedule."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("target", metavar="MODULE:FUNCTION")
  parser.add_argument("--topology", default="v5e:2x2")
  parser.add_argument("--kwargs", type=json.loads, default={}, metavar="JSON")
  parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    print(json.dumps(_compile(args.target, args.topology, args.kwargs)))
    return
  try:
    program = compiled(args.target, args.topology, args.kwargs)
  except (Unavailable, CompileError) as error:
    print(error, file=sys.stderr)
    sys.exit(2)
  print("Cycles of the compiler's schedule; not hardware timings.")
  for kernel in program.kernels.values():
    print(f"\n{kernel.name}")
    print(f"  every step: {kernel.step}")
    print(f"  tiles: {', '.join(map(str, kernel.tiles))}")
    for name in ("before", "after"):
      some = getattr(kernel, name)
      print(
        f"  some steps, {name} tiles: {', '.join(map(str, some)) or 'none'}"
      )
    print(f"  register spills: {kernel.spills}")
    print(f"  VMEM: {kernel.vmem_bytes / 2**20:.1f} MiB")
  print(f"\nHBM temporaries: {program.temporary_bytes / 2**20:.1f} MiB")
  print(f"HBM accessed: {program.accessed_bytes / 2**20:.1f} MiB")


if __name__ == "__main__":
  main()
