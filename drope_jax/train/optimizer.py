"""Optimizers and learning-rate schedules, all optax's, chosen by dataclasses.

To add one: a frozen dataclass with `transform()` (an optimizer) or
`over(steps, step_tokens)` (a schedule, each length of it in steps or tokens).
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import jax
import optax

from drope_jax import trees
from drope_jax.parameters import Parameter, Role, describe


@dataclasses.dataclass(frozen=True)
class Cosine:
  """Linear warmup from 0 to `peak`, then half a cosine to its share.

  Attributes:
    peak: learning rate.
    warmup_steps: optimizer steps; or give `warmup_tokens`.
    final_ratio: last learning rate / peak.
    warmup_tokens: rounded down to whole steps; or give `warmup_steps`.
  """

  peak: float
  warmup_steps: int = 0
  final_ratio: float = 0.0
  warmup_tokens: int = 0

  def __post_init__(self):
    _require_possible(self)

  def over(self, steps: int, step_tokens: int) -> optax.Schedule:
    """Returns the learning rate by step, for a phase of `steps`."""
    warmup_steps = self.warmup_steps + self.warmup_tokens // step_tokens
    _require_room(self, warmup_steps + 1, steps)
    return optax.warmup_cosine_decay_schedule(
      init_value=0.0 if warmup_steps else self.peak,
      peak_value=self.peak,
      warmup_steps=warmup_steps,
      decay_steps=steps,
      end_value=self.final_ratio * self.peak,
    )


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
  """Linear warmup, a plateau at `peak`, then half a cosine to its share.

  Attributes:
    peak: learning rate.
    warmup_steps, decay_steps: optimizer steps at either end; or give
      `warmup_tokens`, `decay_tokens`.
    final_ratio: last learning rate / peak.
    warmup_tokens, decay_tokens: rounded down to whole steps.

  Source: MiniCPM (arXiv:2404.06395); DroPE's SmolLM runs decay by a cosine.
  """

  peak: float
  warmup_steps: int = 0
  decay_steps: int = 0
  final_ratio: float = 0.1
  warmup_tokens: int = 0
  decay_tokens: int = 0

  def __post_init__(self):
    _require_possible(self)

  def over(self, steps: int, step_tokens: int) -> optax.Schedule:
    """Returns the learning rate by step, for a phase of `steps`."""
    warmup_steps = self.warmup_steps + self.warmup_tokens // step_tokens
    # Shorter than a step, it is still a decay.
    decay_steps = max(self.decay_steps + self.decay_tokens // step_tokens, 1)
    _require_room(self, warmup_steps + decay_steps, steps)
    return optax.join_schedules(
      [
        Constant(self.peak, warmup_steps).over(steps, step_tokens),
        optax.cosine_decay_schedule(
          self.peak, decay_steps, alpha=self.final_ratio
        ),
      ],
      [steps - decay_steps],
    )


@dataclasses.dataclass(frozen=True)
class Constant:
  """Linear warmup from 0, in steps or in tokens, then `peak` throughout."""

  peak: float
  warmup_steps: int = 0
  warmup_tokens: int = 0

  def __post_init__(self):
    _require_possible(self)

  def over(self, steps: int, step_tokens: int) -> optax.Schedule:
    """Returns the learning rate by step, for a phase of `steps`."""
    warmup_steps = self.warmup_steps + self.warmup_tokens // step_tokens
    _require_room(self, warmup_steps, steps)
    return optax.join_schedules(
      [
        optax.linear_schedule(0.0, self.peak, warmup_steps),
        optax.constant_schedule(self.peak),
      ],
      [warmup_steps],
    )


Schedule = Cosine | WarmupStableDecay | Constant


@dataclasses.dataclass(frozen=True)
class AdamW:
  """AdamW, weight decay on kernels and adapters only.

  Attributes:
    b1, b2, eps: Adam's; the defaults are the DroPE reference's.
    weight_decay: times the learning rate, each step.
    clip_norm: global gradient norm above which gradients are shrunk; None:
      none are.
    decay_embeddings: whether the embedding's table decays too.
  """

  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip_norm: float | None = 1.0
  decay_embeddings: bool = False

  def __post_init__(self):
    _require_in_range(self)

  def transform(self) -> optax.GradientTransformation:
    """Returns the optax transformation at a learning rate of 1."""
    return optax.chain(
      _clipped(self.clip_norm),
      optax.adamw(
        1.0,
        b1=self.b1,
        b2=self.b2,
        eps=self.eps,
        weight_decay=self.weight_decay,
        mask=functools.partial(_decays, self.decay_embeddings),
      ),
    )


@dataclasses.dataclass(frozen=True)
class Muon:
  """Muon for the layers' kernels, AdamW for embedding, head, norms, biases.

  AdamW is for adapters too: it is the kernel's update, not its factors', whose
  singular values Muon makes alike.

  Both look ahead by Nesterov's rule, so the second half is NAdamW.

  Updates are scaled to AdamW's usual size, so the two share one learning rate.

  Attributes:
    beta: momentum.
    b1, b2: AdamW's.
    weight_decay: of both, on kernels only, times the learning rate.
    clip_norm: global gradient norm above which gradients are shrunk; None:
      none are.
    decay_embeddings: whether the embedding's table decays too.

  Source: Jordan et al. 2024; the scaling, 0.2 * sqrt(max side), is Moonlight's
  (arXiv:2502.16982).
  """

  beta: float = 0.95
  b1: float = 0.9
  b2: float = 0.95
  weight_decay: float = 0.0
  clip_norm: float | None = 1.0
  decay_embeddings: bool = False

  def __post_init__(self):
    _require_in_range(self)

  def transform(self) -> optax.GradientTransformation:
    """Returns the optax transformation at a learning rate of 1."""
    return optax.chain(
      _clipped(self.clip_norm),
      # Its rate of -1 returns the direction itself. Decay follows for both
      # halves: optax's decay of the Adam half would reach norm gains.
      optax.contrib.muon(
        -1.0,
        beta=self.beta,
        adam_b1=self.b1,
        adam_b2=self.b2,
        muon_weight_dimension_numbers=_muon_dimensions,
        consistent_rms=0.2,
      ),
      optax.add_decayed_weights(
        self.weight_decay,
        mask=functools.partial(_decays, self.decay_embeddings),
      ),
      optax.scale(-1.0),
    )


Optimizer = AdamW | Muon


def _require_in_range(optimizer: Optimizer) -> None:
  """Raises ValueError if a number would train nothing, or uphill."""
  of = type(optimizer).__name__
  for name in ("b1", "b2", "beta"):
    if not 0 <= (value := getattr(optimizer, name, 0)) < 1:
      raise ValueError(
        f"{of}.{name} must be at least 0 and below 1, got {value}. Change it."
      )
  for name in ("weight_decay", "eps"):
    if not 0 <= (value := getattr(optimizer, name, 0)) < math.inf:
      raise ValueError(
        f"{of}.{name} must be finite and at least 0, got {value}. Raise it."
      )
  if (norm := optimizer.clip_norm) is not None and not norm > 0:
    raise ValueError(
      f"{of}.clip_norm must be above 0, got {norm}, by which no gradient is "
      "left. Set None to clip none."
    )


def _clipped(norm: float | None) -> optax.GradientTransformation:
  return optax.identity() if norm is None else optax.clip_by_global_norm(norm)


def _decays(embeddings: bool, params: Any) -> Any:
  def decays(parameter: Parameter) -> bool:
    is_table = parameter.role in (Role.TABLE, Role.POSITION_TABLE)
    return parameter.decays or (embeddings and is_table)

  return _by_parameter(decays, params)


def _muon_dimensions(params: Any) -> Any:
  def dimensions(parameter: Parameter) -> Any:
    axes = parameter.muon_axes
    return axes and optax.contrib.MuonDimensionNumbers(*axes)

  return _by_parameter(dimensions, params)


def _by_parameter(choose: Callable[[Parameter], Any], params: Any) -> Any:
  """Returns what `choose` says of each parameter, as a tree like theirs."""

  def chosen(path: Any, _: Any) -> Any:
    name = jax.tree_util.keystr(path, simple=True, separator=trees.SEPARATOR)
    return choose(describe(name))

  return jax.tree_util.tree_map_with_path(chosen, params)


def _require_possible(schedule: Schedule) -> None:
  possible = 0 < schedule.peak < math.inf
  for part, least in (("warmup", 0), ("decay", 1)):
    if hasattr(schedule, f"{part}_steps"):
      lengths = [getattr(schedule, f"{part}_{u}") for u in ("steps", "tokens")]
      # One of the two is given, or neither where there may be none.
      possible &= max(lengths) >= least and min(lengths) == 0
  if not possible:
    raise ValueError(
      "A schedule needs a finite peak above 0, and a warmup of 0 or more and a "
      "decay of 1 or more, each in steps or in tokens but not in both, got "
      f"{schedule}. Change it; Constant has no decay."
    )
  if not 0 <= (ratio := getattr(schedule, "final_ratio", 0)) <= 1:
    raise ValueError(
      f"{type(schedule).__name__}.final_ratio needs a share of the peak from 0 "
      f"to 1, got {ratio}. Change it."
    )


def _require_room(schedule: Schedule, needed: int, steps: int) -> None:
  if needed > steps:
    raise ValueError(
      f"{type(schedule).__name__} needs {needed} steps for its warmup and "
      f"decay, got a phase of {steps}. Shorten them, or lengthen the phase."
    )
