"""The phases of a recipe: trainings, and surgeries between them."""

from collections.abc import Collection
import dataclasses

import numpy as np

from drope_jax.data.pipeline import DataConfig
from drope_jax.evals.periodic import Periodic
from drope_jax.model import remat
from drope_jax.model.config import ModelConfig
from drope_jax.surgery.compose import Surgery
from drope_jax.train import loss
from drope_jax.train.guard import Guard
from drope_jax.train.lora import Lora
from drope_jax.train.optimizer import Optimizer, Schedule
from drope_jax.train.teacher import Teacher

DTYPES = ("float32", "bfloat16")
STARTS = ("fresh", "kept")


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Text that a training is measured on.

  Attributes:
    data: stores that the phase does not train on.
    sequences: how many of the phase's length, the same ones each time, rounded
      up to whole microbatches.
    every_steps: between measurements.
  """

  data: DataConfig
  sequences: int = 64
  every_steps: int = 100

  def __post_init__(self):
    if min(self.sequences, self.every_steps) < 1:
      raise ValueError(
        "HeldOut needs at least 1 sequence and 1 step in between, got "
        f"{self.sequences} and {self.every_steps}. Raise them."
      )


@dataclasses.dataclass(frozen=True)
class TrainPhase:
  """Steps of one optimizer under one schedule.

  The fields come in five groups, each with its own check.

  What is read and for how long:
    name: "pretrain", "recalibrate", ...; unlike the other phases'. Its
      checkpoint's folder has this name.
    data: the stores. Reading continues after the tokens that the model's
      history counts, so that phases with the same context_tokens and data read
      no sequence twice.
    batch_size: B, sequences a step, over all devices.
    context_tokens: S, tokens a sequence.
    steps: optimizer steps; or give `tokens`.
    tokens: rounded down to whole steps; or give `steps`.

  What is trained:
    trainable: names of the trained parameters. The others are frozen: they have
      no gradients, moments or decay, and do not change by a bit. None: all are
      trained. A name is a path in the parameter tree, or its beginning, with
      the shell's `*` and `[ab]`: "layers/attention/[qk]", `"*norm"`. "layers"
      takes a Python index or slice: "layers[:4]/mlp".
    lora: adapters, trained instead of the model or beside its `trainable`
      parameters. The phase's checkpoint and its saves have them merged.
    frozen_dtype: of the frozen parameters, in memory and in the checkpoint.
      "bfloat16" takes half the memory, and loses nothing where the model is
      kept in it.

  How it is optimized:
    optimizer: with its clipping.
    schedule: of the learning rate, over this phase's steps.
    optimizer_start: "fresh" moments, or those "kept" from the training before,
      which must have trained all that this phase trains.
    schedule_start: "fresh"; or "kept", which continues the schedule of the
      training before: it is then one schedule over the steps of both.
    ema_decay: d: the phase's checkpoint, its saves and its held-out loss have
      the average of the weights after each of its steps, in which a step counts
      d times as much as the next one. Adapters are averaged as A and as B, so
      that what is merged is the product of their averages, not the average of
      their products. None: the last weights.
    z_loss: coefficient of lse^2 in the objective, lse the logits' log-sum-exp.
    teacher: the base as a teacher: its distribution is the target. The base is
      the model before the run's first surgery. None: the text is the target.
    guard: which steps are skipped, and when that ends the run.

  How a step fits in memory:
    accumulation: microbatches a step; divides `batch_size`.
    compute_dtype: of activations. Trained parameters and moments stay float32.
    loss_chunk_tokens: tokens for which a device holds logits at once.
    remat: which activations of a layer are saved for the backward pass, by the
      name of a policy in `model.remat`; the others are computed again.
    unroll: whether the loop over layers is compiled as straight-line code,
      which stacks no activations, and compiles longer with depth. None: on
      CPUs, where it takes a fifth off a small model's step.

  What is measured:
    held_out: text for a loss in the metrics; None: none.
    evals: a suite whose scores are in the metrics; None: none.
    until_recovered: ends the phase early, once a measurement finds the base's
      held-out loss / the model's at or above this share.
    log_max_logit: whether metrics have attention's largest logit, which needs
      a backend that honors statistics.
  """

  name: str
  data: DataConfig
  batch_size: int
  context_tokens: int
  optimizer: Optimizer
  schedule: Schedule
  steps: int | None = None
  tokens: int | None = None

  trainable: tuple[str, ...] | None = None
  lora: Lora | None = None
  frozen_dtype: str = "float32"

  optimizer_start: str = "fresh"
  schedule_start: str = "fresh"
  ema_decay: float | None = None
  z_loss: float = 0.0
  teacher: Teacher | None = None
  guard: Guard = Guard()

  accumulation: int = 1
  compute_dtype: str = "float32"
  loss_chunk_tokens: int = loss.CHUNK_TOKENS
  remat: str = "none"
  unroll: bool | None = None

  held_out: HeldOut | None = None
  evals: Periodic | None = None
  until_recovered: float | None = None
  log_max_logit: bool = False

  def __post_init__(self):
    self._check_length()
    self._check_trained()
    self._check_optimization()
    self._check_memory()
    self._check_measured()

  def _check_length(self) -> None:
    self._require_at_least(1, "batch_size", "context_tokens")
    if (self.steps is None) == (self.tokens is None):
      raise ValueError(
        f"{self.name}: TrainPhase needs either steps or tokens, got "
        f"steps={self.steps} and tokens={self.tokens}. Set one."
      )
    if self.num_steps < 1:
      raise ValueError(
        f"{self.name}: TrainPhase must take at least 1 step of "
        f"{self.step_tokens} tokens, got steps={self.steps}, "
        f"tokens={self.tokens}. Raise it, or leave the phase out."
      )

  def _check_trained(self) -> None:
    self._require_one_of(DTYPES, "frozen_dtype")
    if self.trainable == ():
      raise ValueError(
        f"{self.name}: TrainPhase.trainable must name parameters, got (), by "
        "which all are frozen. Name some, or None to train all."
      )
    if self.trains_all and self.frozen_dtype != "float32":
      raise ValueError(
        f"{self.name}: TrainPhase.frozen_dtype is of frozen parameters, got "
        f"{self.frozen_dtype!r} where there are none. Set TrainPhase.trainable "
        "or lora, or leave it out."
      )

  def _check_optimization(self) -> None:
    self._require_at_least(0, "z_loss")
    self._require_one_of(STARTS, "optimizer_start", "schedule_start")
    if self.lora is not None and self.optimizer_start == "kept":
      raise ValueError(
        f"{self.name}: adapters are new in each phase, and so are their "
        'moments, got a TrainPhase.optimizer_start of "kept". Start fresh.'
      )
    decay = self.ema_decay
    if decay is not None and not 0 < np.float32(decay) < 1:
      raise ValueError(
        f"{self.name}: TrainPhase.ema_decay must be above 0 and below 1, got "
        f"{decay}, which is {np.float32(decay)} in float32. Set 0.999, say, or "
        "None for the last weights."
      )

  def _check_memory(self) -> None:
    self._require_at_least(1, "accumulation", "loss_chunk_tokens")
    self._require_one_of(DTYPES, "compute_dtype")
    self._require_one_of(remat.POLICIES, "remat")
    if self.batch_size % self.accumulation:
      raise ValueError(
        f"{self.name}: TrainPhase.accumulation must divide batch_size, got "
        f"{self.accumulation} and {self.batch_size}. Change one."
      )

  def _check_measured(self) -> None:
    if self.held_out is not None:
      shared = {*self.held_out.data.stores} & {*self.data.stores}
      if shared:
        raise ValueError(
          f"{self.name}: held-out text must not be trained on, got "
          f"{', '.join(sorted(shared))} as both. Name another store."
        )
    if self.until_recovered is not None and (
      self.held_out is None or not 0 < self.until_recovered <= 1
    ):
      raise ValueError(
        f"{self.name}: TrainPhase.until_recovered is a share of at most 1 and "
        f"needs held_out text, got {self.until_recovered} and "
        f"{self.held_out}. Set both, or neither."
      )

  def _require_at_least(self, least: int, *fields: str) -> None:
    for field in fields:
      if not getattr(self, field) >= least:
        raise ValueError(
          f"{self.name}: TrainPhase.{field} must be at least {least}, got "
          f"{getattr(self, field)}. Raise it."
        )

  def _require_one_of(self, names: Collection[str], *fields: str) -> None:
    for field in fields:
      if getattr(self, field) not in names:
        raise ValueError(
          f"{self.name}: TrainPhase.{field} must be one of "
          f"{', '.join(names)}, got {getattr(self, field)!r}. Name one of "
          "these."
        )

  def config_of(self, model: ModelConfig) -> ModelConfig:
    """Returns a model's config with the context length of the phase.

    A slope of the softmax scale was fitted from the old length on, and is left
    out where the length changes.
    """
    if self.context_tokens == model.context_tokens:
      return model
    return dataclasses.replace(
      model, context_tokens=self.context_tokens, logit_scale_slope=None
    )

  @property
  def step_tokens(self) -> int:
    """Tokens a step: B * S."""
    return self.batch_size * self.context_tokens

  @property
  def trains_all(self) -> bool:
    """Whether the whole model is trained, and nothing else."""
    return self.trainable is None and self.lora is None

  @property
  def moves_the_model(self) -> bool:
    """Whether its steps change the checkpoint's own parameters."""
    return self.trains_all and self.ema_decay is None

  @property
  def microbatch_size(self) -> int:
    """Sequences that are computed at once, over all devices."""
    return self.batch_size // self.accumulation

  @property
  def num_steps(self) -> int:
    """Optimizer steps of the phase, at most."""
    if self.steps is not None:
      return self.steps
    assert self.tokens is not None  # `__post_init__` needs one of the two.
    return self.tokens // self.step_tokens


@dataclasses.dataclass(frozen=True)
class SurgeryPhase:
  """A surgery between two trainings; it takes no steps.

  Attributes:
    name: unlike the other phases'.
    surgery: what to change.
    calibration: text that matched gains are measured on; None: the data of
      the training before it.
    calibration_sequences: how many sequences of it.
  """

  surgery: Surgery
  name: str = "surgery"
  calibration: DataConfig | None = None
  calibration_sequences: int = 16

  def __post_init__(self):
    if self.calibration_sequences < 1:
      raise ValueError(
        f"{self.name}: SurgeryPhase.calibration_sequences must be at least 1, "
        f"got {self.calibration_sequences}. Raise it."
      )
