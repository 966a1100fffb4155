"""Tasks of EleutherAI's lm-evaluation-harness, in a suite.

The library lm_eval is imported when a task is drawn, not before.
"""

from collections.abc import Collection
import dataclasses

from drope_jax.evals.harness.task import HarnessTask

TASKS = (
  "arc_easy",
  "arc_challenge",
  "hellaswag",
  "openbookqa",
  "piqa",
  "winogrande",
)
"""The six of the DroPE paper's Table 5."""


@dataclasses.dataclass(frozen=True)
class Harness:
  """Tasks of lm-evaluation-harness.

  Attributes:
    tasks: their names there, or paths of .yaml files of such tasks.
    num_fewshot: solved questions before each; None is each task's own number. A
      task whose own number is 0 keeps it, as in lm_eval.
  """

  tasks: tuple[str, ...] = TASKS
  num_fewshot: int | None = None

  def __post_init__(self):
    if not self.tasks or not all(self.tasks):
      raise ValueError(
        "Harness.tasks must name at least one task, got "
        f"{self.tasks or 'none'}. Name one such as arc_easy."
      )

  def expand(self) -> tuple[HarnessTask, ...]:
    """Returns the tasks, with these settings."""
    return tuple(HarnessTask(name, self.num_fewshot) for name in self.tasks)

  def only(self, names: Collection[str]) -> "Harness | None":
    """See `task.Group`; those that it could hold are the six."""
    every = dict.fromkeys((*self.tasks, *TASKS))
    kept = tuple(task for task in every if HarnessTask(task).name in names)
    return dataclasses.replace(self, tasks=kept) if kept else None
