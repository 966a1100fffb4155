"""A recipe: what to train from what, as a list of phases."""

from collections.abc import Mapping
import dataclasses
import re

import optax

from drope_jax import sharding
from drope_jax.attention import BACKENDS, FlashTpu
from drope_jax.data.pipeline import DataConfig
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
_TAKEN = ("best", "heartbeats", "tensorboard", "xla")
"""Of the names in a run's folder, those that a phase could have."""


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Text that a training is measured on.

  Attributes:
    data: stores that the phase does not read.
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

  Attributes:
    name: "pretrain", "recalibrate", ...; unlike the other phases'. Its
      checkpoint's folder has it.
    data: what is read, on from the tokens where the model's history ended, so
      that phases of one context_tokens and data read no sequence twice.
    batch_size: B, sequences a step, over all devices.
    context_tokens: S, tokens a sequence.
    optimizer: and its clipping.
    trainable: names of the parameters that are trained; the others are frozen:
      they have no gradients, moments or decay, and keep their bits. None: all
      are trained. A name is a path in the model's tree, or the first part of
      several, in which * and [ab] are a shell's: "layers/attention/[qk]",
      "*norm". After "layers" may be an index or a slice, as Python's, of the
      layers: "layers[:4]/mlp".
    lora: adapters that are trained instead of the model, or beside what is
      `trainable` of it; the phase's checkpoint and its saves have them merged.
    frozen_dtype: of the frozen, in memory and in the checkpoint. "bfloat16"
      takes half as much; where the model is kept in it, it loses nothing.
    schedule: of the learning rate, over this phase's steps.
    ema_decay: d: the phase's checkpoint, its saves and its held-out loss have
      the mean of the weights after each of its steps, in which those of a step
      count d times as much as those of the next. None: the last weights.
    optimizer_start: "fresh" moments, or those "kept" from the training before;
      of parameters that a surgery added, fresh.
    schedule_start: "fresh", or "kept": the schedule goes on where the training
      before it stopped, and is one over the steps of both.
    steps: optimizer steps; or give `tokens`.
    tokens: rounded down to whole steps; or give `steps`.
    held_out: text on which metrics have a loss; None: none.
    until_recovered: ends the phase early, where a measurement finds this share
      of the base recovered: its loss / the model's, on the held-out text at
      this length. The base is the model before the run's first surgery.
    teacher: the base as one, whose distribution is learnt; None: the text
      alone is.
    accumulation: microbatches a step; divides `batch_size`.
    compute_dtype: of activations; what is trained, and its moments, stay
      float32.
    z_loss: coefficient of lse^2, which the objective adds to cross-entropy.
    loss_chunk_tokens: whose logits a device holds at once.
    guard: which steps are skipped, and when that ends the run.
    log_max_logit: whether metrics have attention's largest logit, which needs
      a backend that honours statistics.
    remat: which of a layer's activations the backward pass finds, by the
      name of a policy in `model.remat`; the others it computes again.
    unroll: whether the loop over layers is compiled as one straight line,
      which stacks no activations; compile time grows with depth. None: on
      CPUs, where it takes a fifth off a small model's step.
  """

  name: str
  data: DataConfig
  batch_size: int
  context_tokens: int
  optimizer: Optimizer
  schedule: Schedule
  trainable: tuple[str, ...] | None = None
  lora: Lora | None = None
  frozen_dtype: str = "float32"
  ema_decay: float | None = None
  optimizer_start: str = "fresh"
  schedule_start: str = "fresh"
  steps: int | None = None
  tokens: int | None = None
  held_out: HeldOut | None = None
  until_recovered: float | None = None
  teacher: Teacher | None = None
  accumulation: int = 1
  compute_dtype: str = "float32"
  z_loss: float = 0.0
  loss_chunk_tokens: int = loss.CHUNK_TOKENS
  guard: Guard = Guard()
  log_max_logit: bool = False
  remat: str = "none"
  unroll: bool | None = None

  def __post_init__(self):
    lowest = dict.fromkeys(
      ("batch_size", "context_tokens", "accumulation", "loss_chunk_tokens"), 1
    ) | {"z_loss": 0}
    for field, least in lowest.items():
      if not getattr(self, field) >= least:
        raise ValueError(
          f"{self.name}: TrainPhase.{field} must be at least {least}, got "
          f"{getattr(self, field)}. Raise it."
        )
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
    if self.batch_size % self.accumulation:
      raise ValueError(
        f"{self.name}: TrainPhase.accumulation must divide batch_size, got "
        f"{self.accumulation} and {self.batch_size}. Change one."
      )
    for field in ("compute_dtype", "frozen_dtype"):
      if getattr(self, field) not in DTYPES:
        raise ValueError(
          f"{self.name}: TrainPhase.{field} must be one of "
          f"{', '.join(DTYPES)}, got {getattr(self, field)!r}. Name one of "
          "these."
        )
    if self.trainable == ():
      raise ValueError(
        f"{self.name}: TrainPhase.trainable must name parameters, got (), by "
        "which all are frozen. Name some, or None to train all."
      )
    if self.ema_decay is not None and not 0 < self.ema_decay < 1:
      raise ValueError(
        f"{self.name}: TrainPhase.ema_decay must be above 0 and below 1, got "
        f"{self.ema_decay}. Set 0.999, say, or None for the last weights."
      )
    if self.trains_all and self.frozen_dtype != "float32":
      raise ValueError(
        f"{self.name}: TrainPhase.frozen_dtype is of frozen parameters, got "
        f"{self.frozen_dtype!r} where there are none. Set TrainPhase.trainable "
        "or lora, or leave it out."
      )
    if self.lora is not None and self.optimizer_start == "kept":
      raise ValueError(
        f"{self.name}: adapters are new in each phase, and so are their "
        'moments, got a TrainPhase.optimizer_start of "kept". Start fresh.'
      )
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
    if self.remat not in remat.POLICIES:
      raise ValueError(
        f"{self.name}: TrainPhase.remat must be one of "
        f"{', '.join(remat.POLICIES)}, got {self.remat!r}. Name one of these."
      )
    for field in ("optimizer_start", "schedule_start"):
      if getattr(self, field) not in STARTS:
        raise ValueError(
          f"{self.name}: TrainPhase.{field} must be one of "
          f"{', '.join(STARTS)}, got {getattr(self, field)!r}. Name one of "
          "these."
        )

  @property
  def step_tokens(self) -> int:
    """Tokens a step: B * S."""
    return self.batch_size * self.context_tokens

  @property
  def trains_all(self) -> bool:
    """Whether all of the model is trained, and nothing else."""
    return self.trainable is None and self.lora is None

  @property
  def moves_the_model(self) -> bool:
    """Whether what its steps move is the very model of its checkpoint."""
    return self.trains_all and self.ema_decay is None

  @property
  def microbatch_size(self) -> int:
    """Sequences that are computed at once, over all devices."""
    return self.batch_size // self.accumulation

  @property
  def num_steps(self) -> int:
    """Optimizer steps of the phase, at most."""
    return (
      self.steps if self.tokens is None else self.tokens // self.step_tokens
    )


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


@dataclasses.dataclass(frozen=True)
class Recipe:
  """All that decides a run; two runs of one recipe end in the same bits.

  Attributes:
    phases: in order.
    model: of a run that starts from random weights; or give `init_from`.
    init_from: a checkpoint to start from, a relative path from the process's
      working directory; or give `model`.
    tokenizer: file that the stores were tokenized with, which the run's
      checkpoints carry; None with `init_from`, whose own it is.
    seed: of weights and data.
    mesh: how devices are laid out; a name in `sharding.PRESETS`, or sizes.
    attention: backend, or `FlashTpu` with blocks of its own; "auto" is
      resolved once a phase, for the devices at hand.
    compiler_options: of XLA, for the training step, over those of
      `step.COMPILER_OPTIONS`: {'xla_tpu_scoped_vmem_limit_kib': '65536'}, say.
    save_every_steps: between checkpoints that a run resumes from.
    save_every_minutes: without a save, after which one follows the next line of
      metrics.jsonl; None: none does.
    keep_saves: how many of the newest of them stay on disk; and the one of the
      least held-out loss in the phase, of those where that is measured.
    keep_every_steps: those at its multiples stay too; None: no more.
    log_every_steps: between lines of metrics.jsonl.
    stall_minutes: in which a step must be begun, else `drope train` ends; ten
      times as long as steps take where that is more, and six times this for
      loading, compiling, measuring and saving. None: it waits for ever.
    profile_steps: the first and last of the run's steps that are traced into
      tensorboard/ of its folder, for each process; None: none.
    dump_xla: whether each phase's step is compiled once more, and what XLA
      notes of it is written to xla/PHASE of its folder.
    read_workers: threads that read batches ahead of the step, in each process;
      0 reads between the steps.
    prefetch_batches: how many batches they read ahead.
  """

  phases: tuple[TrainPhase | SurgeryPhase, ...]
  model: ModelConfig | None = None
  init_from: str | None = None
  tokenizer: str | None = None
  seed: int = 0
  mesh: str | sharding.MeshConfig = "fsdp"
  attention: str | FlashTpu = "auto"
  compiler_options: Mapping[str, bool | int | str] = dataclasses.field(
    default_factory=dict, hash=False
  )
  save_every_steps: int = 500
  save_every_minutes: float | None = 10.0
  keep_saves: int = 2
  keep_every_steps: int | None = None
  log_every_steps: int = 10
  stall_minutes: float | None = 10.0
  profile_steps: tuple[int, int] | None = None
  dump_xla: bool = False
  read_workers: int = 2
  prefetch_batches: int = 4

  def __post_init__(self):
    if not self.phases:
      raise ValueError("A Recipe needs at least one phase, got none. Add one.")
    if (self.model is None) == (self.init_from is None):
      raise ValueError(
        "A Recipe needs either a model to initialise or a checkpoint to start "
        f"from, got model={self.model} and init_from={self.init_from!r}. Set "
        "Recipe.model or Recipe.init_from."
      )
    if (self.model is None) != (self.tokenizer is None):
      raise ValueError(
        "A Recipe names a tokenizer with a model, and takes a checkpoint's "
        f"own, got tokenizer={self.tokenizer!r} and "
        f"init_from={self.init_from!r}. Set or remove Recipe.tokenizer."
      )
    backend = self.attention
    if isinstance(backend, str) and backend not in ("auto", *BACKENDS):
      raise ValueError(
        "Recipe.attention must be auto or one of "
        f"{', '.join(BACKENDS)}, got {self.attention!r}. Name one of these."
      )
    sharding.layout(self.mesh)  # Refuses a name that is none.
    names = [phase.name for phase in self.phases]
    # A phase's checkpoint is the folder of its name, beside the saved steps'.
    if len({*names, *_TAKEN}) < len(names) + len(_TAKEN) or not all(
      re.fullmatch(r"[A-Za-z][\w-]*", name) for name in names
    ):
      raise ValueError(
        "A Recipe's phases need names that differ, of letters, digits, _ and "
        f"-, a letter first, and none of {', '.join(_TAKEN)}, got "
        f"{', '.join(names)}. Rename one."
      )
    for field, least in (
      ("seed", 0),
      ("save_every_steps", 1),
      ("keep_saves", 1),
      ("log_every_steps", 1),
      ("read_workers", 0),
      ("prefetch_batches", 1),
    ):
      if getattr(self, field) < least:
        raise ValueError(
          f"Recipe.{field} must be at least {least}, got "
          f"{getattr(self, field)}. Raise it."
        )
    for field in ("save_every_minutes", "stall_minutes"):
      minutes = getattr(self, field)
      if minutes is not None and not minutes > 0:
        raise ValueError(
          f"Recipe.{field} must be more than 0, got {minutes}. Raise it, or "
          "set None to go without."
        )
    profiled = self.profile_steps
    if profiled is not None and not 1 <= profiled[0] <= profiled[1]:
      raise ValueError(
        "Recipe.profile_steps must be the first and last of the run's steps to "
        f"trace, from 1, got {profiled}. Set (100, 104), say, or None."
      )
    kept = self.keep_every_steps
    if kept is not None and (kept < 1 or kept % self.save_every_steps):
      raise ValueError(
        "Recipe.keep_every_steps must be a multiple of save_every_steps, got "
        f"{kept} and {self.save_every_steps}. Change one."
      )
    for phase in self.phases:
      if isinstance(phase, TrainPhase):
        self._require_same_as_kept(phase)
        self._require_base(phase)
        self.learning_rate(phase)  # Refuses a schedule that has no room.

  def end_steps(self) -> tuple[int, ...]:
    """Returns the run's step at which each phase ends.

    One that ends early takes none of those left: the next starts where it would
    have, had it not.
    """
    ends, total = [], 0
    for phase in self.phases:
      total += phase.num_steps if isinstance(phase, TrainPhase) else 0
      ends.append(total)
    return tuple(ends)

  def before(self, phase: TrainPhase | SurgeryPhase) -> TrainPhase | None:
    """Returns the training before a phase, if there is one."""
    earlier = self.phases[: self.phases.index(phase)]
    trained = [p for p in earlier if isinstance(p, TrainPhase)]
    return trained[-1] if trained else None

  def learning_rate(self, phase: TrainPhase) -> optax.Schedule:
    """Returns a phase's learning rate by the run's step.

    Raises:
      ValueError: its schedule has no room.
    """
    trained = [p for p in self.phases if isinstance(p, TrainPhase)]
    start = stop = trained.index(phase)
    while trained[start].schedule_start == "kept":
      start -= 1
    while (
      stop + 1 < len(trained) and trained[stop + 1].schedule_start == "kept"
    ):
      stop += 1
    first = sum(p.num_steps for p in trained[:start])
    steps = sum(p.num_steps for p in trained[start : stop + 1])
    rate = phase.schedule.over(steps, phase.step_tokens)
    return lambda step: rate(step - first)

  @property
  def tokens(self) -> int:
    """Tokens of all trainings, at most."""
    trained = [p for p in self.phases if isinstance(p, TrainPhase)]
    return sum(p.num_steps * p.step_tokens for p in trained)

  @property
  def base(self) -> TrainPhase | None:
    """The training before the run's first surgery; None where none is."""
    return self.before(
      next(p for p in self.phases if isinstance(p, SurgeryPhase))
    )

  def _require_base(self, phase: TrainPhase) -> None:
    asking = [
      name
      for name in ("until_recovered", "teacher")
      if getattr(phase, name) is not None
    ]
    if not asking:
      return
    earlier = self.phases[: self.phases.index(phase)]
    operated = any(isinstance(p, SurgeryPhase) for p in earlier)
    if not operated or (self.init_from is None and self.base is None):
      raise ValueError(
        f"{phase.name}: TrainPhase.{asking[0]} needs a trained model and a "
        "surgery on it before, got none. Leave it out."
      )

  def _require_same_as_kept(self, phase: TrainPhase) -> None:
    before = self.before(phase)
    for field, shared in (
      ("optimizer_start", ("optimizer", "trainable", "lora")),
      ("schedule_start", ("schedule", "step_tokens")),
    ):
      if getattr(phase, field) == "kept" and (
        before is None
        or any(getattr(phase, n) != getattr(before, n) for n in shared)
      ):
        raise ValueError(
          f'{phase.name}: TrainPhase.{field} "kept" needs a training before it '
          f"in the run with the same {', '.join(shared[:-1])} and "
          f"{shared[-1]}, got {before and before.name}. Make them alike, or "
          "start fresh."
        )
