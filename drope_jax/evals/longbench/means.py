"""The mean over tasks of LongBench, as its leaderboard and papers report it."""

from collections.abc import Iterable, Sequence
import math

from drope_jax.evals import interface
from drope_jax.evals.longbench.task import EXTENDED, KINDS, RANGES


def means(rows: Iterable[interface.Result]) -> list[interface.Result]:
  """Returns the means over LongBench's tasks, and over LongBench-E's.

  There is one for each model, method, length and softmax scale with a result of
  every task of which there are results, if these are two or more. A task counts
  as much as another one, whatever the number of its questions. The mean of a
  range of lengths is over the tasks that have inputs of that range. A mean has
  no outcomes.

  Args:
    rows: results; those of other evals are left out.
  """
  found = []
  by_benchmark: dict[str, list[interface.Result]] = {}
  for row in rows:
    if row.task.removesuffix("_e") in KINDS:
      extended = row.task.endswith("_e")
      name = "longbench_e" if extended else "longbench"
      by_benchmark.setdefault(name, []).append(row)
  for name, own in by_benchmark.items():
    tasks = {row.task for row in own}
    by_condition: dict[tuple, list[interface.Result]] = {}
    for row in own:
      condition = row.model, row.method, row.factor, row.scale_fitted, row.seed
      by_condition.setdefault(condition, []).append(row)
    found += [
      _mean(name, group)
      for group in by_condition.values()
      if len(group) == len(tasks) > 1
    ]
  return found


def _mean(name: str, rows: Sequence[interface.Result]) -> interface.Result:
  first = rows[0]
  ranges = EXTENDED if name == "longbench_e" else RANGES
  by_part: dict[str, list[interface.Part]] = {part: [] for part, _ in ranges}
  for row in rows:
    for part in row.parts or ():
      by_part[part.name].append(part)
  low, high = _interval(rows)
  return interface.Result(
    task=name,
    metric=f"mean of {len(rows)} tasks",
    model=first.model,
    method=first.method,
    factor=first.factor,
    context_tokens=first.context_tokens,
    logit_scale=first.logit_scale,
    scale_fitted=first.scale_fitted,
    value=_over(rows, "value"),
    low=low,
    high=high,
    count=sum(row.count for row in rows),
    seed=first.seed,
    mean_tokens=_over(rows, "mean_tokens"),
    outcomes=(),
    truncated=_over(rows, "truncated"),
    parts=tuple(
      interface.Part(
        part,
        _over(own, "value"),
        *_interval(own),
        count=sum(one.count for one in own),
        truncated=_over(own, "truncated"),
      )
      for part, own in by_part.items()
      if own
    ),
  )


Scored = Sequence[interface.Result] | Sequence[interface.Part]


def _over(rows: Scored, field: str) -> float:
  return sum(getattr(row, field) for row in rows) / len(rows)


def _interval(rows: Scored) -> tuple[float, float]:
  """Returns the interval of a mean of independent shares.

  Source: Zou, Huang and Zhang 2009, "A note on confidence interval estimation
    for a linear function of binomial proportions".
  """
  mean = _over(rows, "value")
  low, high = (
    math.hypot(*(row.value - getattr(row, side) for row in rows)) / len(rows)
    for side in ("low", "high")
  )
  return mean - low, mean + high
