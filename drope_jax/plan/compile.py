"""Compiles a phase's training step for a TPU slice, on a machine without one.

The compiler is libtpu's own, so that what it refuses a TPU would refuse, and
what it says of memory is what a TPU would take.
"""

from collections.abc import Iterator
import dataclasses
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies
import jax.numpy as jnp

from drope_jax import attention, sharding
from drope_jax.attention import FlashTpu
from drope_jax.attention.flash_tpu import blocks
from drope_jax.model.config import ModelConfig
from drope_jax.plan import collectives, slices
from drope_jax.plan.collectives import Collective
from drope_jax.plan.slices import Slice
from drope_jax.train import flops, loop
from drope_jax.train import step as steps
from drope_jax.train.recipe import Recipe, TrainPhase

_OVER = re.compile(r"\((\d+\.\d+)([MG])\) exceeds available HBM")
# From those that keep most to that which keeps nothing.
_THRIFTIER = ("minimal", "save_qkv_proj", "save_out_proj", "full")


@dataclasses.dataclass(frozen=True)
class Plan:
  """What one phase's step takes of each device, in bytes, and of the slice.

  Attributes:
    phase: its name.
    remat, accumulation: as compiled.
    fits: whether it compiles within `available`.
    available: of HBM.
    params, optimizer: of the state, as it is sharded.
    temporaries: activations, gradients and what else the step computes; where
      it does not fit, what the compiler says it wants.
    flops: of a step of the whole slice, by both counts.
    collectives: by kind; None where it does not fit, or cannot be read.
    save: bytes of host memory, a host, while a checkpoint is written.
    step_tokens, tokens: of a step and of the phase.
    mfu: assumed, of the causal count.
    hours: of the phase, at this MFU.
    chip_hours: of all chips.
  """

  phase: str
  remat: str
  accumulation: int
  fits: bool
  available: int
  params: int
  optimizer: int
  temporaries: int
  flops: flops.Flops
  collectives: dict[str, Collective] | None
  save: int
  step_tokens: int
  tokens: int
  mfu: float
  hours: float
  chip_hours: float

  @property
  def total(self) -> int:
    """Bytes of a device's HBM."""
    return self.params + self.optimizer + self.temporaries


def prepare() -> None:
  """Sets what libtpu must find in the environment where there is no TPU.

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


def plan(
  recipe: Recipe,
  phase: TrainPhase,
  config: ModelConfig,
  target: Slice,
  mfu: float,
) -> Plan:
  """Compiles a phase's step, and says what it takes.

  Args:
    recipe: whose mesh and attention are used.
    phase: one of its trainings.
    config: the model's, after the surgeries before it.
    target: to compile for.
    mfu: assumed, of the causal count.

  Raises:
    ValueError: the model or batch does not divide over the mesh.
  """
  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=target.topology
  ).devices
  mesh = sharding.make_mesh(recipe.mesh, list(devices))
  config = dataclasses.replace(config, context_tokens=phase.context_tokens)
  sharding.require_even_batch(mesh, phase.microbatch_size, phase.context_tokens)
  state = steps.abstract_state(phase, config, mesh)
  backend = _backend(recipe, phase, config, devices[0])
  step = steps.make_step(
    config, phase, recipe.learning_rate(phase), backend, mesh
  )
  available = slices.CHIPS[target.chip].hbm_bytes
  held = {name: _bytes_a_device(part) for name, part in state.items()}
  params, optimizer = held["params"], sum(held.values()) - held["params"]
  lowered = steps.jitted(step, state).lower(state, _batch(phase, mesh))
  sent = None
  try:
    program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if not (over := _OVER.search(str(error))):
      raise
    fits, unit = False, {"M": 2**20, "G": 2**30}[over[2]]
    temporaries = int(float(over[1]) * unit) - params - optimizer
  else:
    fits, memory = True, program.memory_analysis()
    temporaries = (
      memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    )
    sent = _collectives(program)
  work = flops.of_token(config, phase.context_tokens)
  tokens = phase.num_steps * phase.step_tokens
  peak = flops.peak(devices[0]) * len(devices)
  hours = tokens * work.causal / (peak * mfu) / 3600
  hosts = len({device.process_index for device in devices})
  return Plan(
    phase=phase.name,
    remat=phase.remat,
    accumulation=phase.accumulation,
    fits=fits,
    available=available,
    params=params,
    optimizer=optimizer,
    temporaries=temporaries,
    flops=flops.Flops(*(phase.step_tokens * count for count in work)),
    collectives=sent,
    save=sum(held.values()) * len(devices) // hosts,
    step_tokens=phase.step_tokens,
    tokens=tokens,
    mfu=mfu,
    hours=hours,
    chip_hours=hours * target.chips,
  )


def thriftier(
  recipe: Recipe, phase: TrainPhase, target: Slice
) -> Iterator[tuple[Recipe, TrainPhase]]:
  """Yields the recipe with a phase of less memory, the fastest first.

  More is computed again, then microbatches are smaller.

  Args:
    recipe: the phase's.
    phase: one that does not fit.
    target: what it does not fit.
  """
  names = _THRIFTIER
  if phase.remat in names:
    names = names[names.index(phase.remat) + 1 :]
  changes = [{"remat": name} for name in names]
  data, fsdp, _, _ = sharding.layout(recipe.mesh).shape(target.devices)
  accumulation = 2 * phase.accumulation
  while phase.batch_size % (accumulation * data * fsdp) == 0:
    changes.append({"remat": "full", "accumulation": accumulation})
    accumulation *= 2
  for change in changes:
    other = dataclasses.replace(phase, **change)
    phases = tuple(other if p is phase else p for p in recipe.phases)
    yield dataclasses.replace(recipe, phases=phases), other


def _backend(recipe, phase, config, device) -> str | FlashTpu:
  backend = loop.resolve_backend(
    recipe.attention, config, phase.compute_dtype, "tpu"
  )
  if backend != "flash_tpu":
    return backend
  # The kernel would look for blocks of the chip that compiles.
  chip = blocks.chip(device)
  return attention.FlashTpu(
    blocks.nearest(chip, config.head_dim, "forward"),
    blocks.nearest(chip, config.head_dim, "backward"),
  )


def _batch(phase, mesh):
  where = jax.NamedSharding(mesh, sharding.BATCH)
  shape = (phase.batch_size, phase.context_tokens)
  dtypes = dict.fromkeys(("inputs_BS", "targets_BS", "segments_BS"), jnp.int32)
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=where)
    for name, dtype in (dtypes | {"weights_BS": jnp.float32}).items()
  }


def _bytes_a_device(tree) -> int:
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _collectives(program) -> dict[str, Collective] | None:
  try:
    return collectives.read(program.as_text())
  except jax.errors.JaxRuntimeError:  # Some programs for v5p have no text.
    return None
