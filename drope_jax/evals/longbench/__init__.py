"""LongBench v1 (arXiv:2308.14508) and LongBench-E, from their published files.

Prompts, the cutting of their middle, tokens to generate and scores are
LongBench's own. Prompts stand by themselves, without a chat's template, as
LongBench has them for base models.
"""

from collections.abc import Collection
import dataclasses

from drope_jax.evals.longbench.means import means as means
from drope_jax.evals.longbench.task import KINDS, LongBenchTask

TASKS = tuple(KINDS)
"""LongBench's 21 tasks."""

TASKS_E = tuple(
  f"{name}_e"
  for name in (
    "qasper",
    "multifieldqa_en",
    "hotpotqa",
    "2wikimqa",
    "gov_report",
    "multi_news",
    "trec",
    "triviaqa",
    "samsum",
    "passage_count",
    "passage_retrieval_en",
    "lcc",
    "repobench-p",
  )
)
"""The 13 of LongBench-E, whose questions are spread evenly over lengths."""


@dataclasses.dataclass(frozen=True)
class LongBench:
  """LongBench's tasks on the files of a folder.

  Attributes:
    tasks: some of `TASKS` and `TASKS_E`.
    folder: where the published .jsonl files lie, unpacked.
  """

  tasks: tuple[str, ...] = TASKS
  folder: str | None = None

  def __post_init__(self):
    known = (*TASKS, *TASKS_E)
    if not self.tasks or {*self.tasks} - {*known}:
      raise ValueError(
        f"LongBench.tasks must be some of {', '.join(known)}, got "
        f"{', '.join(self.tasks) or 'none'}. Name some of these."
      )

  def expand(self) -> tuple[LongBenchTask, ...]:
    """Returns the tasks, with this folder."""
    return tuple(LongBenchTask(name, self.folder) for name in self.tasks)

  def only(self, names: Collection[str]) -> "LongBench | None":
    """See `task.Group`; those that it could hold are all of LongBench."""
    every = dict.fromkeys((*self.tasks, *TASKS, *TASKS_E))
    kept = tuple(name for name in every if name in names)
    return dataclasses.replace(self, tasks=kept) if kept else None
