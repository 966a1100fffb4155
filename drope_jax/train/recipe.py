"""A recipe: what to train from what, as a list of phases."""

from collections.abc import Mapping
import dataclasses
import re

import jax
import optax

from drope_jax import sharding
from drope_jax.attention import (
  BACKENDS,
  Choice,
  FlashTpu,
  require_platform,
)
from drope_jax.model import backend as backends
from drope_jax.model.config import ModelConfig
from drope_jax.train.phases import SurgeryPhase, TrainPhase

_TAKEN = ("best", "heartbeats", "tensorboard", "xla")
"""Names in a run's folder that a phase may not have."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A whole run; two runs of one recipe end in the same bits.

  What is run:
    phases: in order.
    model: to start from random weights; or give `init_from`.
    init_from: a checkpoint to start from. A relative path starts at the working
      directory. Or give `model`.
    tokenizer: the file that the stores were tokenized with; the run's
      checkpoints contain it. None with `init_from`, which has its own.
    seed: of weights and data.

  How devices run it:
    mesh: the layout of the devices: a name in `sharding.PRESETS`, or sizes.
    attention: a backend, or `FlashTpu` with other blocks; "auto" is resolved
      once a phase, for the devices of the run.
    compiler_options: of XLA, for the training step, over
      `step.COMPILER_OPTIONS`: {'xla_tpu_scoped_vmem_limit_kib': '65536'}, say.
    read_workers: threads that read batches ahead of the step, in each process;
      0 reads between the steps.
    prefetch_batches: how many batches they read ahead.

  What is saved:
    save_every_steps: between saves that a run resumes from.
    save_every_minutes: after this long without a save, one follows the next
      line of metrics.jsonl; None: it does not.
    keep_saves: how many of the newest saves stay on disk. The phase's RUN/best
      stays as well.
    keep_every_steps: saves at multiples of this stay too; None: no others.

  How it is watched:
    log_every_steps: between lines of metrics.jsonl.
    stall_minutes: if no step begins for this long, or for ten times a step's
      time where that is longer, `drope train` ends. Loading, compiling,
      measuring and saving may take six times as long. None: it waits for ever.
    profile_steps: the first and last of the run's steps that each process
      traces into tensorboard/ of the run's folder; None: none.
    dump_xla: whether each phase's step is compiled once more, and XLA's dump of
      it is written to xla/PHASE of the run's folder.
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
    self._check_start()
    self._check_names()
    self._check_devices()
    self._check_saves()
    self._check_watching()
    for phase in self.phases:
      if isinstance(phase, TrainPhase):
        self._check_same_as_kept(phase)
        self._check_base(phase)
        self.learning_rate(phase)  # Raises if its schedule is too long.

  def _check_start(self) -> None:
    self._require_at_least(0, "seed")
    if (self.model is None) == (self.init_from is None):
      raise ValueError(
        "A Recipe needs either a model to initialize or a checkpoint to start "
        f"from, got model={self.model} and init_from={self.init_from!r}. Set "
        "Recipe.model or Recipe.init_from."
      )
    if (self.model is None) != (self.tokenizer is None):
      raise ValueError(
        "A Recipe names a tokenizer with a model, and takes a checkpoint's "
        f"own, got tokenizer={self.tokenizer!r} and "
        f"init_from={self.init_from!r}. Set or remove Recipe.tokenizer."
      )

  def _check_names(self) -> None:
    if not self.phases:
      raise ValueError("A Recipe needs at least one phase, got none. Add one.")
    names = [phase.name for phase in self.phases]
    # A phase's checkpoint is a folder of its name, beside those of saved steps.
    if len({*names, *_TAKEN}) < len(names) + len(_TAKEN) or not all(
      re.fullmatch(r"[A-Za-z][\w-]*", name) for name in names
    ):
      raise ValueError(
        "A Recipe's phases need names that differ, of letters, digits, _ and "
        f"-, a letter first, and none of {', '.join(_TAKEN)}, got "
        f"{', '.join(names)}. Rename one."
      )

  def _check_devices(self) -> None:
    self._require_at_least(0, "read_workers")
    self._require_at_least(1, "prefetch_batches")
    sharding.layout(self.mesh)  # Raises for an unknown name.
    backend = self.attention
    if isinstance(backend, str) and backend not in ("auto", *BACKENDS):
      raise ValueError(
        "Recipe.attention must be auto or one of "
        f"{', '.join(BACKENDS)}, got {self.attention!r}. Name one of these."
      )

  def _check_saves(self) -> None:
    self._require_at_least(1, "save_every_steps", "keep_saves")
    self._require_minutes("save_every_minutes")
    kept = self.keep_every_steps
    if kept is not None and (kept < 1 or kept % self.save_every_steps):
      raise ValueError(
        "Recipe.keep_every_steps must be a multiple of save_every_steps, got "
        f"{kept} and {self.save_every_steps}. Change one."
      )

  def _check_watching(self) -> None:
    self._require_at_least(1, "log_every_steps")
    self._require_minutes("stall_minutes")
    profiled = self.profile_steps
    if profiled is not None and not 1 <= profiled[0] <= profiled[1]:
      raise ValueError(
        "Recipe.profile_steps must be the first and last of the run's steps to "
        f"trace, from 1, got {profiled}. Set (100, 104), say, or None."
      )

  def _require_at_least(self, least: int, *fields: str) -> None:
    for field in fields:
      if getattr(self, field) < least:
        raise ValueError(
          f"Recipe.{field} must be at least {least}, got "
          f"{getattr(self, field)}. Raise it."
        )

  def _require_minutes(self, field: str) -> None:
    minutes = getattr(self, field)
    if minutes is not None and not minutes > 0:
      raise ValueError(
        f"Recipe.{field} must be more than 0, got {minutes}. Raise it, or set "
        "None to go without."
      )

  def end_steps(self) -> tuple[int, ...]:
    """Returns the run's step at which each phase ends.

    A phase that ends early does not change at which step the next one starts.
    """
    ends, total = [], 0
    for phase in self.phases:
      total += phase.num_steps if isinstance(phase, TrainPhase) else 0
      ends.append(total)
    return tuple(ends)

  def before(self, phase: TrainPhase | SurgeryPhase) -> TrainPhase | None:
    """Returns the last training before a phase, or None."""
    earlier = self.phases[: self.phases.index(phase)]
    trained = [p for p in earlier if isinstance(p, TrainPhase)]
    return trained[-1] if trained else None

  def backend(
    self, phase: TrainPhase, config: ModelConfig, device: jax.Device
  ) -> Choice:
    """Returns the attention backend of a phase's steps.

    Args:
      phase: of the recipe.
      config: of the model that attends.
      device: one of those that run it.

    Raises:
      ValueError: the recipe names one of another platform.
    """
    require_platform(self.attention, device)
    return backends.resolve(
      self.attention,
      config,
      phase.compute_dtype,
      device,
      with_stats=phase.log_max_logit,
    )

  def learning_rate(self, phase: TrainPhase) -> optax.Schedule:
    """Returns a phase's learning rate by the run's step.

    Raises:
      ValueError: its schedule is longer than the phase.
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
    """The training before the run's first surgery, which there must be.

    None: the surgery is on the model of `init_from`.
    """
    return self.before(
      next(p for p in self.phases if isinstance(p, SurgeryPhase))
    )

  def _check_base(self, phase: TrainPhase) -> None:
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

  def _check_same_as_kept(self, phase: TrainPhase) -> None:
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
