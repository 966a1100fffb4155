"""The sequences that the phases of a recipe read."""

from collections.abc import Iterator, Sequence
import itertools
import math

import jax
import numpy as np

from drope_jax import sharding
from drope_jax.data import pipeline
from drope_jax.train.phases import SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe

Batch = dict[str, np.ndarray]
"""inputs_BS, targets_BS, segments_BS (int32) and weights_BS (float32)."""


def training(
  recipe: Recipe,
  phase: TrainPhase,
  mesh: jax.sharding.Mesh,
  base_dir: str | None,
  start_sequence: int = 0,
) -> Iterator[Batch]:
  """Returns this process's rows of a phase's batches, without end.

  Args:
    recipe: its seed and its reading threads are used.
    phase: a training of the recipe.
    mesh: over which the batches are split.
    base_dir: where relative paths of stores start.
    start_sequence: the first sequence that is read, in the phase's order.

  Raises:
    FileNotFoundError, ValueError: as `pipeline.batches`.
  """
  part, parts = sharding.process_part(mesh)
  return pipeline.batches(
    phase.data,
    batch_size=phase.batch_size,
    context_tokens=phase.context_tokens,
    seed=recipe.seed,
    start_sequence=start_sequence,
    part=part,
    parts=parts,
    workers=recipe.read_workers,
    prefetch_batches=recipe.prefetch_batches,
    base_dir=base_dir,
  )


def held_out(
  phase: TrainPhase, mesh: jax.sharding.Mesh, base_dir: str | None
) -> list[Batch]:
  """Returns this process's rows of a phase's held-out text.

  These are microbatches of the same sequences each time; [] where the phase
  has no held-out text. Args and errors as of `training`.
  """
  if phase.held_out is None:
    return []
  rows, (part, parts) = phase.microbatch_size, sharding.process_part(mesh)
  endless = pipeline.batches(
    phase.held_out.data,
    batch_size=rows,
    context_tokens=phase.context_tokens,
    seed=0,
    part=part,
    parts=parts,
    base_dir=base_dir,
  )
  count = math.ceil(phase.held_out.sequences / rows)
  return [*itertools.islice(endless, count)]


def calibration(
  recipe: Recipe,
  phase: SurgeryPhase,
  context_tokens: int,
  base_dir: str | None,
) -> np.ndarray:
  """Returns tokens_BS that a surgery's matched gains are measured on.

  Args:
    recipe: its seed draws them.
    phase: a surgery of the recipe.
    context_tokens: S.
    base_dir: where relative paths of stores start.

  Raises:
    FileNotFoundError, ValueError: as `calibration_data`, and as
      `pipeline.batches`.
  """
  batches = pipeline.batches(
    calibration_data(recipe, phase),
    batch_size=phase.calibration_sequences,
    context_tokens=context_tokens,
    seed=recipe.seed,
    base_dir=base_dir,
  )
  return next(batches)["inputs_BS"]


def calibration_data(
  recipe: Recipe, phase: SurgeryPhase
) -> pipeline.DataConfig:
  """Returns the data that a surgery's matched gains are measured on.

  Raises:
    ValueError: the phase names none, and no training comes before it.
  """
  before = recipe.before(phase)
  if phase.calibration is not None:
    return phase.calibration
  if before is None:
    raise ValueError(
      f"{phase.name}: matched gains are measured on text, got none. Set "
      "SurgeryPhase.calibration, or let a training come before."
    )
  return before.data


def data_of(phase: TrainPhase | SurgeryPhase) -> list[pipeline.DataConfig]:
  """Returns the data that a phase names."""
  if isinstance(phase, SurgeryPhase):
    named: Sequence[pipeline.DataConfig | None] = [phase.calibration]
  else:
    held_out = phase.held_out
    named = [phase.data, None if held_out is None else held_out.data]
  return [data for data in named if data is not None]


def store_paths(recipe: Recipe) -> list[str]:
  """Returns the path of each token store that a recipe reads, once."""
  named = [data for phase in recipe.phases for data in data_of(phase)]
  return [*dict.fromkeys(path for data in named for path in data.stores)]
