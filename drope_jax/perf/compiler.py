"""Compiles programs for TPUs on a machine without one.

The compiler is libtpu's own: what it refuses a TPU would refuse, and the memory
it reports is the memory a TPU would use.
"""

from collections.abc import Callable
import contextlib
import importlib.util
import math
import os
import pathlib
import re
import tempfile
from typing import Any, NamedTuple

import jax

from drope_jax import extras
from drope_jax.perf import collectives
from drope_jax.perf.collectives import Collective

ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
  "JAX_PLATFORMS": "cpu",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}
"""The variables that libtpu needs where there is no TPU."""

_OVER = re.compile(r"\((\d+\.\d+)([MG])\) exceeds available HBM")


class Program(NamedTuple):
  """What the compiler says of a program.

  Attributes:
    fits: whether it compiles within a device's memory.
    bytes: of a device, arguments and results included; what the compiler asks
      for if the program does not fit.
    text: HLO of the module; None if the program does not fit.
    compiled: None if the program does not fit.
  """

  fits: bool
  bytes: int
  text: str | None
  compiled: jax.stages.Compiled | None

  @property
  def collectives(self) -> dict[str, Collective] | None:
    """Collectives by kind; None if the program does not fit."""
    return None if self.text is None else collectives.read(self.text)


Compile = Callable[[jax.stages.Lowered], Program]
"""What makes a program of what was lowered, as `compile` does."""


def require_libtpu() -> None:
  """Checks that libtpu is installed.

  Raises:
    ValueError: libtpu is not installed.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(extras.missing("libtpu", "tpu", "Compiling for a TPU"))


def prepare() -> None:
  """Sets up this process to compile for TPUs; call it before JAX starts.

  Also disables the compilation cache: a TPU program in it cannot be read back
  without a TPU.

  Raises:
    ValueError: libtpu is not installed.
  """
  require_libtpu()
  for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  jax.config.update("jax_enable_compilation_cache", False)


def compile(lowered: jax.stages.Lowered, dump: str | None = None) -> Program:
  """Returns what the compiler makes of a program.

  Args:
    lowered: for the devices of a topology, see `jax.experimental.topologies`.
    dump: an empty folder for what the compiler writes as it goes; None: one
      that is removed again.
  """
  with contextlib.ExitStack() as stack:
    folder = dump or stack.enter_context(tempfile.TemporaryDirectory())
    # `Compiled.as_text` fails on some programs for v5p.
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    try:
      compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      if not (over := _OVER.search(str(error))):
        raise
      unit = {"M": 2**20, "G": 2**30}[over[2]]
      return Program(False, int(float(over[1]) * unit), None, None)
    # Only a TPU's compiler has the codegen stage, where it writes estimates.
    last, *_ = (
      file
      for stage in ("codegen", "optimizations")
      for file in pathlib.Path(folder).glob(f"*after_{stage}.txt")
    )
    text = last.read_text()
  memory = compiled.memory_analysis()
  total = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )
  return Program(True, total, text, compiled)


def bytes_per_device(tree: Any) -> int:
  """Returns the size of sharded arrays, or of shapes with shardings."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
