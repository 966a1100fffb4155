"""Progress on the terminal, as one live line or as plain lines."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import math
import time
from typing import Any, Self

import rich.progress
import rich.table

from drope_jax.cli import console as consoles
from drope_jax.cli import terminal
from drope_jax.evals.remembering import OnRead
from drope_jax.evals.steps import Step
from drope_jax.train.phases import TrainPhase
from drope_jax.train.recipe import Recipe


class _Progress:
  """A context manager that shows a live line, or prints lines.

  If the output is not a terminal, it prints a line about every tenth.
  """

  def __init__(
    self,
    *columns: str | rich.progress.ProgressColumn,
    console: consoles.Console,
    transient: bool = False,
  ):
    self._console = console
    self._bar = rich.progress.Progress(
      *columns,
      console=console,
      transient=transient,
      disable=not console.is_terminal,
      # The average of all: updates may come minutes or hours apart.
      speed_estimate_period=math.inf,
    )
    self._tenths = 0

  def _needs_line(self, done: int, whole: int) -> bool:
    """Returns whether to print a line, as another tenth of `whole` is done."""
    tenths = 10 * done // whole
    if self._console.is_terminal or tenths <= self._tenths:
      return False
    self._tenths = tenths
    return True

  def __enter__(self) -> Self:
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()


class TrainingProgress(_Progress):
  """Shows phase, steps, loss, tokens/s and time left, by phase."""

  def __init__(self, recipe: Recipe, console: consoles.Console):
    ends = recipe.end_steps()
    self._phases = {
      phase.name: (end - phase.num_steps, phase.num_steps)
      for phase, end in zip(recipe.phases, ends, strict=True)
      if isinstance(phase, TrainPhase)
    }
    super().__init__(*_columns(self._phases, console.width), console=console)
    self._tasks: dict[str, rich.progress.TaskID] = {}

  @property
  def renderable(self) -> rich.progress.Progress:
    """The live line, for use within another live display."""
    return self._bar

  def __call__(self, line: Mapping[str, Any]) -> None:
    """Shows a line of metrics.jsonl."""
    name = line["phase"]
    first, steps = self._phases[name]
    done = line["step"] - first
    fields = {key: line[key] for key in ("loss", "tokens_per_s")}
    if name not in self._tasks:
      self._tasks[name] = self._bar.add_task(name, total=steps, **fields)
      self._tenths = 0
    self._bar.update(self._tasks[name], completed=done, **fields)
    if self._needs_line(done, steps):
      self._console.print(
        f"{name} {done}/{steps}  loss {line['loss']:.3f}  "
        f"{line['tokens_per_s']:,.0f} tokens/s"
      )


def _columns(
  phases: Mapping[str, tuple[int, int]], width: int
) -> list[str | rich.progress.ProgressColumn]:
  """Returns the columns of the live line that fit the width.

  Phase and steps are always shown; then, if they fit, the loss, the time left,
  the speed and the bar. A run without a training has no line.
  """
  if not phases:
    return []
  digits = max(len(str(steps)) for _, steps in phases.values())
  space = width - max(map(len, phases)) - len(" /") - 2 * digits
  widest = {
    "loss": " loss 10.123",
    "left": " 00:00:00 left",
    "speed": " 1,000,000 tokens/s",
    "bar": " ----------",
  }
  fitting = set()
  for part, text in widest.items():
    space -= len(text)
    if space >= 0:
      fitting.add(part)
  columns = {
    "bar": [rich.progress.BarColumn()],
    "steps": [rich.progress.MofNCompleteColumn()],
    "loss": ["loss {task.fields[loss]:.3f}"],
    "speed": ["{task.fields[tokens_per_s]:,.0f} tokens/s"],
    "left": [rich.progress.TimeRemainingColumn(), "left"],
  }
  shown = ["{task.description}"]
  for part, added in columns.items():
    shown += added if part in fitting | {"steps"} else []
  return shown


class SamplingProgress(_Progress):
  """Shows how many tokens are sampled, tokens/s and time left."""

  def __init__(self, tokens: int, console: consoles.Console):
    super().__init__(
      "sampling",
      rich.progress.BarColumn(bar_width=16),
      "{task.completed:,}/{task.total:,} tokens",
      "{task.fields[rate]:,.0f}/s",
      rich.progress.TimeRemainingColumn(),
      "left",
      console=console,
      transient=True,
    )
    self._wanted = tokens
    self._task: rich.progress.TaskID | None = None

  def __call__(self, tokens: int) -> None:
    """Shows the number of tokens; the first call has those of earlier runs."""
    if self._task is None:
      self._first = time.monotonic(), tokens
      self._task = self._bar.add_task(
        "", total=self._wanted, completed=tokens, rate=0
      )
      self._tenths = 10 * tokens // self._wanted
    started, had = self._first
    rate = (tokens - had) / (time.monotonic() - started + 1e-9)
    self._bar.update(self._task, completed=tokens, rate=rate)
    if self._needs_line(tokens, self._wanted):
      self._console.print(
        f"sampled {tokens:,} of {self._wanted:,} tokens  {rate:,.0f} tokens/s"
      )


class EvaluationProgress(_Progress):
  """Shows the current step, how much is done, and the time left.

  Steps are weighted by their tokens.
  """

  def __init__(self, steps: Sequence[Step], console: consoles.Console):
    super().__init__(
      rich.progress.BarColumn(bar_width=16),
      "{task.fields[finished]}/{task.fields[count]}",
      rich.progress.TimeElapsedColumn(),
      "gone,",
      rich.progress.TimeRemainingColumn(),
      "left:",
      # A name without markup, cut off where it does not fit.
      rich.progress.TextColumn(
        "{task.description}",
        markup=False,
        table_column=rich.table.Column(no_wrap=True, overflow="ellipsis"),
      ),
      console=console,
    )
    self._finished = sum(step.done for step in steps)
    self._count = len(steps)
    # Steps done by an earlier start took no time, and do not count.
    self._tokens = sum(step.tokens for step in steps if not step.done)
    self._began_s = time.monotonic()
    self._task = self._bar.add_task(
      "", total=self._tokens, finished=self._finished, count=self._count
    )

  @contextlib.contextmanager
  def __call__(self, step: Step) -> Iterator[OnRead]:
    """Shows a step while it runs, and counts it when it ends.

    Yields a function to call with the tokens that the step has read since.
    """
    self._bar.update(self._task, description=terminal.printable(step.name))
    before = self._bar.tasks[0].completed
    end = before + step.tokens

    def on_read(tokens: int) -> None:
      now = min(self._bar.tasks[0].completed + tokens, end)
      self._bar.update(self._task, completed=now)

    yield on_read
    self._finished += 1
    self._bar.update(self._task, completed=end, finished=self._finished)
    if self._needs_line(int(end), self._tokens):
      self._console.print(
        f"evaluate {self._finished}/{self._count}: {step.name}{self._left()}"
      )

  def _left(self) -> str:
    """Returns the time left in words, at the average speed so far."""
    done = self._bar.tasks[0].completed
    left_s = (time.monotonic() - self._began_s) * (self._tokens / done - 1)
    if left_s < 60:
      return ""
    return f", about {left_s / 60:,.0f} min left"
