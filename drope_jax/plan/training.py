"""What a phase's training step needs of a TPU slice."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from drope_jax import parameters, sharding, trees
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.perf import compiler, flops
from drope_jax.perf.collectives import Collective
from drope_jax.plan import placement, slices
from drope_jax.plan.slices import Slice
from drope_jax.train import state as states
from drope_jax.train import step as steps
from drope_jax.train import tuning as tunings
from drope_jax.train.phases import TrainPhase
from drope_jax.train.recipe import Recipe

# Rematerialization policies, from the one that saves most to none saved.
_REMAT = (
  "minimal_with_context",
  "minimal",
  "save_dot_with_context_except_mlp",
  "save_qkv_proj",
  "save_context",
  "save_out_proj",
  "full",
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What one phase's step needs of each device, in bytes, and of the slice.

  Attributes:
    phase: its name.
    remat, accumulation: as compiled.
    fits: whether it compiles within `available`.
    available: of HBM.
    params, optimizer: the model's parameters and the optimizer's state.
    adapters, average: parts of the state; 0 if the phase has none.
    teacher: the teacher's parameters; 0 if the phase has none.
    temporaries: activations, gradients and all else that the step computes; if
      it does not fit, what the compiler asks for.
    logits: the part of the temporaries that float32 logits take at most; half
      of it is the teacher's.
    flops: of a step on the whole slice, by both counts, including the teacher's
      forward pass.
    collectives: by kind; None if it does not fit.
    save: host memory of each host while a checkpoint is written.
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
  adapters: int
  average: int
  teacher: int
  temporaries: int
  logits: int
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
    held = self.params + self.optimizer + self.adapters + self.average
    return held + self.teacher + self.temporaries


def plan(
  recipe: Recipe,
  phase: TrainPhase,
  config: ModelConfig,
  target: Slice,
  mfu: float,
  original: ModelConfig | None = None,
  compile_: compiler.Compile = compiler.compile,
) -> tuple[Plan, jax.stages.Compiled | None]:
  """Compiles a phase's step and returns what it needs.

  Args:
    recipe: its mesh and attention are used.
    phase: a training phase of the recipe.
    config: the model's, after the surgeries before the phase.
    target: the slice to compile for.
    mfu: assumed, by the causal count.
    original: the model's config before the surgeries: the teacher's, if the
      phase has one.
    compile_: what compiles the step.

  Returns:
    The plan, and the compiled step or None if it does not fit.

  Raises:
    ValueError: the mesh does not divide the model or the batch.
  """
  teacher = None if phase.teacher is None else original
  lowered, (state, base), mesh = lower(recipe, phase, config, target, teacher)
  program = compile_(lowered)
  devices = mesh.devices.ravel()
  moved = trees.flatten(state["params"])
  adapters = {
    path: x
    for path, x in moved.items()
    if parameters.describe(path).role is parameters.Role.ADAPTER
  }
  parts = {
    "state": state,
    "adapters": adapters,
    "average": state.get("average"),
    "trained": state["params"],
    "base": base,
    "teacher": _teacher_params(phase, teacher, mesh),
  }
  held = {name: compiler.bytes_per_device(part) for name, part in parts.items()}
  shapes = transformer.param_shapes(config)
  work = flops.of_token(
    config,
    phase.context_tokens,
    **tunings.of(phase, shapes).weights(shapes),
    teacher=teacher,
  )
  tokens = phase.num_steps * phase.step_tokens
  peak = flops.peak(devices[0].device_kind)
  assert peak is not None  # It is known of every TPU that a plan is for.
  hours = tokens * work.causal / (peak * target.chips * mfu) / 3600
  return Plan(
    phase=phase.name,
    remat=phase.remat,
    accumulation=phase.accumulation,
    fits=program.fits,
    available=slices.CHIPS[target.chip].hbm_bytes,
    params=held["base"] + held["trained"] - held["adapters"],
    optimizer=held["state"] - held["trained"] - held["average"],
    adapters=held["adapters"],
    average=held["average"],
    teacher=held["teacher"],
    temporaries=program.bytes - held["state"] - held["base"] - held["teacher"],
    logits=_logits(phase, config, mesh),
    flops=flops.Flops(*(phase.step_tokens * count for count in work)),
    collectives=program.collectives,
    save=save_bytes(phase, config, mesh),
    step_tokens=phase.step_tokens,
    tokens=tokens,
    mfu=mfu,
    hours=hours,
    chip_hours=hours * target.chips,
  ), program.compiled


def save_bytes(
  phase: TrainPhase, config: ModelConfig, mesh: jax.sharding.Mesh
) -> int:
  """Returns the bytes of each process's memory while the state is saved.

  Orbax has each of a shard's copies write its part of it, if one of the shard's
  axes divides by them.
  """
  saved = states.abstract_saved(phase, config, mesh)
  processes = {device.process_index for device in mesh.devices.flat}
  written = 0
  for leaf in jax.tree.leaves(saved):
    shard = leaf.sharding.shard_shape(leaf.shape)
    copies = mesh.size * math.prod(shard) // leaf.size
    parts = copies if any(side % copies == 0 for side in shard) else 1
    written += math.prod(shard) * leaf.dtype.itemsize // parts
  return written * mesh.size // len(processes)


def lower(
  recipe: Recipe,
  phase: TrainPhase,
  config: ModelConfig,
  target: Slice,
  teacher: ModelConfig | None = None,
) -> tuple[jax.stages.Lowered, tuple[states.State, Any], jax.sharding.Mesh]:
  """Returns a phase's step for a slice, its state and base, and the mesh.

  Args and errors are those of `plan`; `teacher` is the teacher's config.
  """
  mesh = sharding.make_mesh(recipe.mesh, placement.devices(target))
  sharding.require_even_batch(mesh, phase.microbatch_size, phase.context_tokens)

  def reader(config: ModelConfig):
    config = phase.config_of(config)
    return config, recipe.backend(phase, config, mesh.devices.flat[0])

  config, backend = reader(config)
  state = states.abstract(phase, config, mesh)
  base = states.abstract_base(phase, config, mesh)
  step = steps.jitted(
    config,
    phase,
    recipe.learning_rate(phase),
    backend,
    mesh,
    None if teacher is None else reader(teacher),
    recipe.compiler_options,
  )
  lowered = step.lower(
    state, _batch(phase, mesh), base, _teacher_params(phase, teacher, mesh)
  )
  return lowered, (state, base), mesh


def with_less_memory(
  recipe: Recipe, phase: TrainPhase, target: Slice
) -> list[tuple[Recipe, TrainPhase]]:
  """Returns recipes whose phase needs ever less memory, the fastest first.

  They rematerialize more, then use smaller microbatches.

  Args:
    recipe: the phase's.
    phase: it does not fit.
    target: the slice.
  """
  names = _REMAT
  if phase.remat in names:
    names = names[names.index(phase.remat) + 1 :]
  changes: list[dict[str, Any]] = [{"remat": name} for name in names]
  mesh = sharding.make_mesh(recipe.mesh, placement.devices(target))
  shards = sharding.row_shards(mesh)
  accumulation = 2 * phase.accumulation
  while phase.batch_size % (accumulation * shards) == 0:
    changes.append({"remat": "full", "accumulation": accumulation})
    accumulation *= 2
  changed = []
  for change in changes:
    other = dataclasses.replace(phase, **change)
    phases = tuple(other if p is phase else p for p in recipe.phases)
    changed.append((dataclasses.replace(recipe, phases=phases), other))
  return changed


def _batch(phase, mesh):
  where = jax.NamedSharding(mesh, sharding.BATCH)
  shape = (phase.batch_size, phase.context_tokens)
  dtypes = dict.fromkeys(("inputs_BS", "targets_BS", "segments_BS"), jnp.int32)
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=where)
    for name, dtype in (dtypes | {"weights_BS": jnp.float32}).items()
  }


def _teacher_params(phase, teacher, mesh):
  if teacher is None:
    return None
  return placement.params(teacher, mesh, phase.compute_dtype)


def _logits(phase, config, mesh):
  shape = (phase.microbatch_size, phase.context_tokens)
  rows, tokens = jax.NamedSharding(mesh, sharding.BATCH).shard_shape(shape)
  chunk = min(phase.loss_chunk_tokens, rows * tokens)
  models = 1 if phase.teacher is None else 2
  return models * 4 * chunk * config.vocab_size // mesh.shape["tensor"]
