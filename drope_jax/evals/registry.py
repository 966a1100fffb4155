"""The evals there are, by name. This is the only place that lists them."""

from collections.abc import Iterable, Mapping

from drope_jax.evals import (
  harness,
  longbench,
  niah,
  ordering,
  perplexity,
  recall,
  ruler,
  second_reading,
  sliding,
)
from drope_jax.evals.metric import NATS, Metric
from drope_jax.evals.task import Group, Task

_ALL: tuple[Task, ...] = (
  perplexity.Perplexity(),
  sliding.SlidingPerplexity(),
  recall.Recall(),
  second_reading.SecondReading(),
  *niah.TASKS,
  *ordering.TASKS,
  *ruler.Ruler().expand(),
  *longbench.LongBench(longbench.TASKS + longbench.TASKS_E).expand(),
  *harness.Harness().expand(),
)

TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}
"""The tasks that a suite can name."""

GROUPS: Mapping[str, tuple[str, ...]] = {
  "niah": tuple(task.name for task in niah.TASKS),
  "ordering": tuple(task.name for task in ordering.TASKS),
  "ruler": ruler.TASKS,
  "longbench": longbench.TASKS,
  "longbench_e": longbench.TASKS_E,
  "harness": harness.TASKS,
}
"""Names that stand for several tasks."""

GROUP_CLASSES: Mapping[str, type] = {
  "ruler": ruler.Ruler,
  "longbench": longbench.LongBench,
  "longbench_e": longbench.LongBench,
  "harness": harness.Harness,
}
"""Of those names, the class that holds the tasks with settings."""

CLASSES: tuple[type, ...] = (
  niah.Niah,
  *dict.fromkeys(GROUP_CLASSES.values()),
)
"""Tasks and their groups with settings; a suite can hold them for names."""


def tasks(evals: Iterable[str | Group]) -> tuple[Task, ...]:
  """Returns the tasks that a suite's evals stand for, in order, each once.

  Args:
    evals: names in `TASKS` or `GROUPS`, or groups with settings.

  Raises:
    ValueError: a name is unknown, or two tasks of different settings have the
      same name.
  """
  found: dict[str, Task] = {}
  for task in (task for entry in evals for task in _expand(entry)):
    if found.setdefault(task.name, task) != task:
      raise ValueError(
        f"Suite.evals must hold each task once, got {task.name} with two "
        "settings. Leave one out."
      )
  return tuple(found.values())


def metrics(task: str) -> tuple[Metric, ...]:
  """Returns the metrics of a task by its name; () for a name not in `TASKS`."""
  return TASKS[task].metrics if task in TASKS else ()


def metric(task: str, name: str) -> Metric:
  """Returns one of a task's metrics; for an unknown one, the name alone."""
  known = {metric.name: metric for metric in metrics(task)}
  return known.get(name, Metric(name, name, "", NATS, False))


def _expand(entry: str | Group) -> tuple[Task, ...]:
  if not isinstance(entry, str):
    return entry.expand()
  if entry in TASKS:
    return (TASKS[entry],)
  if entry in GROUPS:
    return tuple(TASKS[name] for name in GROUPS[entry])
  raise ValueError(
    f"Suite.evals must be some of {', '.join((*GROUPS, *TASKS))}, got "
    f"{entry}. Name some of these."
  )
