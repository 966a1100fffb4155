"""The static schedule of a program's Pallas kernels, without a TPU.

A program is compiled in a process of its own for a topology given by name, and
the bundles that the compiler dumps are counted. The counts repeat exactly from
run to run. They include no wait for memory or network: they are lower bounds to
compare kernels by, not hardware timings.
"""

import argparse
from collections.abc import Iterator, Mapping
import dataclasses
import importlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from drope_jax.perf import bundles, compiler

_BRANCH = re.compile(r"sbr\.\w+ .*?target bundleno = (\d+)")
_SPILL = re.compile(r"\bvst\S* \[vmem:\[#allocation\d+_spill\]")


class CompileError(ValueError):
  """The compiler refused the program."""


@dataclasses.dataclass(frozen=True)
class Kernel:
  """Where the cycles of one step of a kernel's grid go.

  Attributes:
    name: the kernel's.
    step: cycles of every step.
    tiles: cycles of each branch with matrix products, in program order. A step
      runs at most one of them.
    before, after: cycles of each branch without products, before the first tile
      and after it.
    spills: vector registers stored to VMEM for lack of registers.
    vmem_bytes: of windows and scratch, without spills.
    parts: the same as `tiles` inside a loop of the step, which runs at most one
      of them each trip.
    part_step: cycles of every trip of that loop.
  """

  name: str
  step: int
  tiles: tuple[int, ...]
  before: tuple[int, ...]
  after: tuple[int, ...]
  spills: int
  vmem_bytes: int = 0
  parts: tuple[int, ...] = ()
  part_step: int = 0


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    kernels: those with matrix products in a loop, by name.
    temporary_bytes: of HBM, without arguments and results.
    accessed_bytes: read and written by all operations, as XLA counts them: the
      body of a loop once.
  """

  kernels: Mapping[str, Kernel]
  temporary_bytes: int
  accessed_bytes: int

  def kernel(self, pattern: str) -> Kernel:
    """Returns the one kernel whose name matches a regular expression.

    Raises:
      ValueError: none or several match.
    """
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

  A branch backward closes a loop. A branch forward skips a region, which runs
  in some steps only. The grid is the outermost loop with products; its tiles
  are the innermost regions with products, or parts if a loop in the grid has
  them.

  Args:
    name: the kernel's.
    dump: the text of the bundles.
  """
  code = bundles.split(dump)
  products = [n for n, text in enumerate(code) if "vmatmul" in text]

  def count(span: _Span) -> int:
    return sum(span.start <= n < span.stop for n in products)

  loops, regions = _spans(code)
  loops = [loop for loop in loops if count(loop)]
  outermost = [a for a in loops if not any(b.holds(a) for b in loops)]
  if not outermost:
    return None
  grid = max(outermost, key=count)
  inner = [loop for loop in loops if grid.holds(loop)]
  regions = {region for region in regions if grid.holds(region)}
  working = {region for region in regions if count(region)}
  idle = regions - working
  idle = sorted(a for a in idle if not any(b.holds(a) for b in idle))
  leaves = sorted(a for a in working if not any(a.holds(b) for b in working))
  leaves = leaves or [grid]
  first = min(leaves).start
  looped = [a for a in leaves if any(loop.holds(a) for loop in inner)]

  def cycles(span: _Span) -> int:
    return span.cycles - sum(part.cycles for part in idle if span.holds(part))

  tiles = tuple(cycles(a) for a in leaves if a not in looped)
  parts = tuple(map(cycles, looped))
  trips = sum(map(cycles, inner))
  conditional = sum(part.cycles for part in idle)
  return Kernel(
    name=name,
    step=grid.cycles - sum(tiles) - trips - conditional,
    tiles=tiles,
    before=tuple(part.cycles for part in idle if part.start < first),
    after=tuple(part.cycles for part in idle if part.start >= first),
    spills=sum(len(_SPILL.findall(text)) for text in code),
    parts=parts,
    part_step=trips - sum(parts),
  )


def _spans(code: list[str]) -> tuple[list[_Span], set[_Span]]:
  """Returns the loops, and the regions that a branch skips."""
  loops: dict[int, int] = {}
  regions = set()
  for n, text in enumerate(code):
    for target in map(int, _BRANCH.findall(text)):
      after = n + 1 + bundles.DELAY_SLOTS
      if target <= n:
        loops[target] = max(loops.get(target, 0), min(after, len(code)))
      elif after < target:
        regions.add(_Span(after, target))
  return [_Span(*loop) for loop in loops.items()], regions


def compiled(target: str, topology: str, kwargs: Mapping[str, Any]) -> Program:
  """Compiles a function in a process of its own and reads its schedule.

  Args:
    target: MODULE:FUNCTION. The function takes `kwargs` and returns a function
      to compile and its arguments, each a `jax.ShapeDtypeStruct`.
    topology: for example "v5e:2x2"; the program is for its first device.
    kwargs: of the function; JSON holds them.

  Raises:
    ValueError: libtpu is not installed.
    CompileError: the program does not compile.
  """
  with tempfile.TemporaryDirectory() as folder:
    found = _in_process(target, topology, kwargs, folder)
    return Program(
      kernels={k.name: k for k in _read(pathlib.Path(folder))},
      temporary_bytes=found["temporary_bytes"],
      accessed_bytes=found["accessed_bytes"],
    )


def compile_cpu_s(
  target: str, topology: str, kwargs: Mapping[str, Any]
) -> float:
  """Returns the CPU seconds of tracing, lowering and compiling a function.

  They are those of all threads, in a process that compiles nothing else and
  dumps nothing.

  Args:
    target, topology, kwargs: as in `compiled`, which raises the same errors.
  """
  return _in_process(target, topology, kwargs, None)["compile_cpu_s"]


def _in_process(target, topology, kwargs, folder) -> dict[str, Any]:
  """Returns what `_compile` does, from a process of its own."""
  compiler.require_libtpu()
  command = [sys.executable, "-m", "drope_jax.perf.schedule", target]
  command += [topology, json.dumps(kwargs)]
  ran = subprocess.run(
    command, capture_output=True, env=bundles.environment(folder), text=True
  )
  if ran.returncode:
    lines = ran.stderr.strip().splitlines() or ["no message"]
    raise CompileError(
      f"{target} does not compile for {topology} with {dict(kwargs)}: "
      f"{_reason(lines)}"
    )
  return json.loads(ran.stdout.splitlines()[-1])


def _reason(lines: list[str]) -> str:
  errors = [
    line for line in lines if re.match(r"[\w.]*(Error|Exception):", line)
  ]
  return (errors or lines)[-1][:400]


def _read(folder: pathlib.Path) -> Iterator[Kernel]:
  """Yields the kernels of a dump."""
  for name, file in bundles.files(folder).items():
    if kernel := read_kernel(name, file.read_text(errors="replace")):
      size = bundles.vmem_bytes(file)
      yield dataclasses.replace(kernel, vmem_bytes=size)


def _compile(target: str, topology: str, kwargs: dict[str, Any]) -> str:
  """Compiles in this process; returns the program's sizes and time as JSON."""
  # The parent process needs no JAX.
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
  start = time.process_time()
  program = jax.jit(function).lower(*arguments).compile()
  found = {
    "compile_cpu_s": time.process_time() - start,
    "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    "accessed_bytes": int(program.cost_analysis()["bytes accessed"]),
  }
  return json.dumps(found)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description="The process that compiles.")
  parser.add_argument("target")
  parser.add_argument("topology")
  parser.add_argument("kwargs", type=json.loads)
  sys.stdout.write(_compile(**vars(parser.parse_args())))
