"""A training's progress on the terminal: one live line, or plain lines."""

from collections.abc import Mapping
from typing import Any

import rich.progress

from drope_jax.cli import console as consoles
from drope_jax.train.recipe import Recipe, TrainPhase


class TrainingProgress:
  """Shows phase, steps, loss, tokens/s and time left. A context manager.

  Where output is not a terminal, a line comes about every tenth of a phase.
  """

  def __init__(self, recipe: Recipe, console: consoles.Console):
    self._console = console
    ends = recipe.end_steps()
    self._phases = {
      phase.name: (end - phase.num_steps, phase.num_steps)
      for phase, end in zip(recipe.phases, ends, strict=True)
      if isinstance(phase, TrainPhase)
    }
    self._bar = rich.progress.Progress(
      *_columns(self._phases, console.width),
      console=console,
      disable=not console.is_terminal,
    )
    self._tasks: dict[str, rich.progress.TaskID] = {}
    self._tenths: dict[str, int] = {}

  @property
  def renderable(self) -> rich.progress.Progress:
    """The line itself, to be shown within another live display."""
    return self._bar

  def __call__(self, line: Mapping[str, Any]) -> None:
    """Takes a line of metrics.jsonl."""
    name = line["phase"]
    first, steps = self._phases[name]
    done = line["step"] - first
    fields = {key: line[key] for key in ("loss", "tokens_per_s")}
    if name not in self._tasks:
      self._tasks[name] = self._bar.add_task(name, total=steps, **fields)
    self._bar.update(self._tasks[name], completed=done, **fields)
    tenths = 10 * done // steps
    if not self._console.is_terminal and tenths > self._tenths.get(name, 0):
      self._tenths[name] = tenths
      self._console.print(
        f"{name} {done}/{steps}  loss {line['loss']:.3f}  "
        f"{line['tokens_per_s']:,.0f} tokens/s"
      )

  def __enter__(self) -> "TrainingProgress":
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()


def _columns(
  phases: Mapping[str, tuple[int, int]], width: int
) -> list[str | rich.progress.ProgressColumn]:
  """Returns the parts of a line that have room in it.

  Phase and steps always are; then come the loss, the time left, the speed and
  the bar.
  """
  digits = max(len(str(steps)) for _, steps in phases.values())
  room = width - max(map(len, phases)) - len(" /") - 2 * digits
  widest = {
    "loss": " loss 10.123",
    "left": " 00:00:00 left",
    "speed": " 1,000,000 tokens/s",
    "bar": " ----------",
  }
  fitting = set()
  for part, text in widest.items():
    room -= len(text)
    if room >= 0:
      fitting.add(part)
  columns = {
    "bar": [rich.progress.BarColumn()],
    "steps": [rich.progress.MofNCompleteColumn()],
    "loss": ["loss {task.fields[loss]:.3f}"],
    "speed": ["{task.fields[tokens_per_s]:,.0f} tokens/s"],
    "left": [rich.progress.TimeRemainingColumn(), "left"],
  }
  shown = ["{task.description}"]
  for part, of_part in columns.items():
    shown += of_part if part in fitting | {"steps"} else []
  return shown
