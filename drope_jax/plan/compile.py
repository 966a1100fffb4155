"""Compiles programs for a TPU slice, on a machine without one.

The compiler is libtpu's own, so that what it refuses a TPU would refuse, and
what it says of memory is what a TPU would take.
"""

import importlib.util
import math
import os
import pathlib
import re
import tempfile
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from drope_jax import sharding
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.perf import collectives
from drope_jax.perf.collectives import Collective
from drope_jax.plan.slices import Slice

_OVER = re.compile(r"\((\d+\.\d+)([MG])\) exceeds available HBM")


class Program(NamedTuple):
  """What the compiler says of a program.

  Attributes:
    fits: whether it compiles within a device's memory.
    bytes: of a device, arguments and results among them; where it does not
      fit, what the compiler says it wants.
    text: of the module; None where it does not fit.
    compiled: None where it does not fit.
  """

  fits: bool
  bytes: int
  text: str | None
  compiled: jax.stages.Compiled | None

  @property
  def collectives(self) -> dict[str, Collective] | None:
    """What it sends, by kind; None where it does not fit."""
    return None if self.text is None else collectives.read(self.text)


def prepare() -> None:
  """Sets what libtpu must find in the environment where there is no TPU.

  Nor are programs cached: one for a TPU cannot be read back without it.

  Raises:
    ValueError: libtpu is not installed.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      "A plan needs libtpu, the TPU's compiler, which is not installed. Run: "
      "pip install 'drope_jax[tpu]'"
    )
  for name, value in {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
  }.items():
    os.environ.setdefault(name, value)
  jax.config.update("jax_enable_compilation_cache", False)


def devices(target: Slice) -> list[jax.Device]:
  """Returns a slice's devices, which hold no arrays and run nothing."""
  return list(topologies.get_topology_desc(**target.topology).devices)


def compile(lowered: jax.stages.Lowered) -> Program:
  """Returns what the compiler makes of a program for a slice's devices."""
  with tempfile.TemporaryDirectory() as folder:
    # `Compiled.as_text` fails on some programs for v5p.
    dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    try:
      compiled = lowered.compile(compiler_options=dump)
    except jax.errors.JaxRuntimeError as error:
      if not (over := _OVER.search(str(error))):
        raise
      unit = {"M": 2**20, "G": 2**30}[over[2]]
      return Program(False, int(float(over[1]) * unit), None, None)
    # A TPU's compiler notes its estimates last; others have no such stage.
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


def params(
  config: ModelConfig, mesh: jax.sharding.Mesh, dtype: str
) -> transformer.Params:
  """Returns a model's parameters as shapes, as they lie on a mesh."""
  shapes = transformer.param_shapes(config)
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=where),
    shapes,
    sharding.param_shardings(mesh, shapes),
  )


def bytes_a_device(tree: Any) -> int:
  """Returns those of arrays, or of shapes with shardings."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
