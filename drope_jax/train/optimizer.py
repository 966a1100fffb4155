"""Optimizers and learning-rate schedules, all optax's, chosen by dataclasses.

To add one: a frozen dataclass with `transform(schedule)` (an optimizer) or
`over(steps)` (a schedule).
"""

import dataclasses
import math
from typing import Any

import jax
import optax


@dataclasses.dataclass(frozen=True)
class Cosine:
  """Linear warmup from 0 to `peak`, then half a cosine to its share.

  Attributes:
    peak: learning rate.
    warmup_steps: optimizer steps.
    final_ratio: last learning rate / peak.
  """

  peak: float
  warmup_steps: int = 0
  final_ratio: float = 0.0

  def __post_init__(self):
    _require_possible(self)

  def over(self, steps: int) -> optax.Schedule:
    """Returns the learning rate by step, for a phase of `steps`."""
    _require_room(self, self.warmup_steps + 1, steps)
    return optax.warmup_cosine_decay_schedule(
      init_value=0.0 if self.warmup_steps else self.peak,
      peak_value=self.peak,
      warmup_steps=self.warmup_steps,
      decay_steps=steps,
      end_value=self.final_ratio * self.peak,
    )


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
  """Linear warmup, a plateau at `peak`, then half a cosine to its share.

  Attributes:
    peak: learning rate.
    warmup_steps, decay_steps: optimizer steps at either end.
    final_ratio: last learning rate / peak.

  Source: MiniCPM (arXiv:2404.06395); DroPE's SmolLM runs decay by a cosine.
  """

  peak: float
  warmup_steps: int
  decay_steps: int
  final_ratio: float = 0.1

  def __post_init__(self):
    _require_possible(self)

  def over(self, steps: int) -> optax.Schedule:
    """Returns the learning rate by step, for a phase of `steps`."""
    _require_room(self, self.warmup_steps + self.decay_steps, steps)
    return optax.join_schedules(
      [
        Constant(self.peak, self.warmup_steps).over(steps),
        optax.cosine_decay_schedule(
          self.peak, self.decay_steps, alpha=self.final_ratio
        ),
      ],
      [steps - self.decay_steps],
    )


@dataclasses.dataclass(frozen=True)
class Constant:
  """Linear warmup from 0, then `peak` throughout."""

  peak: float
  warmup_steps: int = 0

  def __post_init__(self):
    _require_possible(self)

  def over(self, steps: int) -> optax.Schedule:
    """Returns the learning rate by step, for a phase of `steps`."""
    _require_room(self, self.warmup_steps, steps)
    return optax.join_schedules(
      [
        optax.linear_schedule(0.0, self.peak, self.warmup_steps),
        optax.constant_schedule(self.peak),
      ],
      [self.warmup_steps],
    )


Schedule = Cosine | WarmupStableDecay | Constant


@dataclasses.dataclass(frozen=True)
class AdamW:
  """AdamW, weight decay on matrices only.

  Attributes:
    b1, b2, eps: Adam's; the defaults are the DroPE reference's.
    weight_decay: times the learning rate, each step.
    clip_norm: global gradient norm above which gradients are shrunk.
  """

  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip_norm: float = 1.0

  def transform(self, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optax transformation, clipping first."""
    return optax.chain(
      optax.clip_by_global_norm(self.clip_norm),
      optax.adamw(
        schedule,
        b1=self.b1,
        b2=self.b2,
        eps=self.eps,
        weight_decay=self.weight_decay,
        mask=_is_matrix,
      ),
    )


@dataclasses.dataclass(frozen=True)
class Muon:
  """Muon for the layers' kernels, AdamW for embedding, head, norms, biases.

  Both look ahead by Nesterov's rule, so the second half is NAdamW.

  Updates are scaled to AdamW's usual size, so the two share one learning rate.

  Attributes:
    beta: momentum.
    b1, b2: AdamW's.
    weight_decay: of both, on matrices only, times the learning rate.
    clip_norm: global gradient norm above which gradients are shrunk.

  Source: Jordan et al. 2024; the scaling, 0.2 * sqrt(max side), is Moonlight's
  (arXiv:2502.16982).
  """

  beta: float = 0.95
  b1: float = 0.9
  b2: float = 0.95
  weight_decay: float = 0.0
  clip_norm: float = 1.0

  def transform(self, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optax transformation, clipping first."""
    return optax.chain(
      optax.clip_by_global_norm(self.clip_norm),
      # Its rate of -1 returns the direction itself. Decay and rate follow for
      # both halves: optax's decay of the Adam half would reach norm gains.
      optax.contrib.muon(
        -1.0,
        beta=self.beta,
        adam_b1=self.b1,
        adam_b2=self.b2,
        muon_weight_dimension_numbers=_muon_dimensions,
        consistent_rms=0.2,
      ),
      optax.add_decayed_weights(self.weight_decay, mask=_is_matrix),
      optax.scale_by_learning_rate(schedule),
    )


Optimizer = AdamW | Muon


def _is_matrix(params: Any) -> Any:
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key in ("kernel", "table"), params
  )


def _muon_dimensions(params: Any) -> Any:
  # Kernels of the layers are [N, in, out]; the head's [M, V] is AdamW's.
  stacked = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
  return jax.tree_util.tree_map_with_path(
    lambda path, _: (
      stacked if (path[0].key, path[-1].key) == ("layers", "kernel") else None
    ),
    params,
  )


def _require_possible(schedule: Schedule) -> None:
  decay_steps = getattr(schedule, "decay_steps", 1)
  steps_fit = schedule.warmup_steps >= 0 and decay_steps >= 1
  if not (steps_fit and 0 < schedule.peak < math.inf):
    raise ValueError(
      "A schedule needs a finite peak above 0, no negative warmup and a decay "
      f"of at least 1 step, got {schedule}. Change it; Constant has no decay."
    )


def _require_room(schedule: Schedule, needed: int, steps: int) -> None:
  if needed > steps:
    raise ValueError(
      f"{type(schedule).__name__} needs {needed} steps for its warmup and "
      f"decay, got a phase of {steps}. Shorten them, or lengthen the phase."
    )
