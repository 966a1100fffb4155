"""A task of lm-evaluation-harness on a model, as a row for each of its metrics.

Prompts, answers and metrics are lm_eval's; this is between it and a suite.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from drope_jax.evals import interface, intervals
from drope_jax.evals.harness import adapter, library
from drope_jax.evals.metric import SHARE, Metric
from drope_jax.evals.task import Order


def _metric(name, title, unit=SHARE, higher_is_better=True) -> Metric:
  return Metric(name, title, "lm-evaluation-harness", unit, higher_is_better)


METRICS = (
  _metric("acc", "questions with the right choice likeliest"),
  _metric("acc_norm", "questions with the right choice likeliest a character"),
  _metric("exact_match", "answers that match exactly"),
  _metric("f1", "F1 of the answers"),
  _metric("perplexity", "perplexity of the answers", "a token", False),
  _metric("word_perplexity", "perplexity of words", "a word", False),
  _metric("byte_perplexity", "perplexity of bytes", "a byte", False),
  _metric("bits_per_byte", "information", "bits a byte", False),
)
"""Those that reports show; others stand only in the table of all results."""


@dataclasses.dataclass(frozen=True)
class Question:
  """A question of a task.

  Attributes:
    document: its fields, as JSON.
    task: lm_eval's object, which has all of its questions.
    length: tokens that a model may read.
    prefix: ids that every text begins with.
  """

  document: str
  task: Any = dataclasses.field(repr=False)
  length: int
  prefix: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class HarnessTask:
  """One task of lm-evaluation-harness.

  Attributes:
    task: its name there, or the path of a .yaml file of it.
    num_fewshot: solved questions before each; None is the task's own number. A
      task whose own number is 0 keeps it, as in lm_eval.
  """

  task: str
  num_fewshot: int | None = None

  @property
  def name(self) -> str:
    """In results: of a file, its name without .yaml."""
    return pathlib.Path(self.task).stem if self._is_file else self.task

  @property
  def metrics(self) -> tuple[Metric, ...]:
    return METRICS

  @property
  def _is_file(self) -> bool:
    return self.task.endswith((".yaml", ".yml"))

  def draw(self, order: Order) -> Mapping[int, Sequence[Question]]:
    """Loads the task; of more questions than are asked for, the first.

    Raises:
      ValueError: lm_eval is not installed, there is no such task, it stands for
        several, or its data cannot be loaded.
    """
    loaded = self._load()
    with library.seeded():  # A task may process its questions anew.
      questions = loaded.eval_docs
    documents = [json.dumps(doc, default=str) for doc in questions]
    return {
      length: [
        Question(document, loaded, length, order.prefix)
        for document in documents[:count]
      ]
      for length, count in zip(order.lengths, order.counts, strict=True)
    }

  def evaluate(
    self,
    lm: interface.LM,
    samples: Sequence[Question],
    condition: interface.Condition,
  ) -> list[interface.Result]:
    """Returns a result of each metric and filter, in lm_eval's units.

    Intervals of shares are Wilson's, of other means the bootstrap's. A metric
    that is not a mean, such as a perplexity, has neither interval nor outcomes.
    """
    question = samples[0]
    # Solved questions are drawn on from here; each evaluation has the same.
    seed = library.module("defaults").DEFAULT_OTHER_SEED
    question.task.set_fewshot_seed(seed=seed)
    model = adapter.model_class()(
      lm.with_logit_scale(condition.logit_scale),
      question.length,
      question.prefix,
    )
    with library.quiet(), library.seeded():
      found = library.module("evaluator").evaluate(
        model,
        {"tasks": {self.name: question.task}},
        limit=len(samples),
        bootstrap_iters=0,
      )
    answered = found["samples"][self.name]
    common = {
      "task": self.name,
      "factor": question.length / lm.context_tokens,
      "context_tokens": lm.context_tokens,
      "count": len(samples),
      "mean_tokens": float(np.mean(model.tokens)),
      "truncated": model.truncated / len(model.tokens),
      **vars(condition),
    }
    results = []
    for key, value in found["results"][self.name].items():
      metric, _, kind = key.partition(",")
      if not kind or metric.endswith("_stderr"):
        continue
      values = [s.get(metric) for s in answered if s["filter"] == kind]
      name = metric if kind == "none" else key
      outcomes, ends = _outcomes(values, value)
      low, high = ends or (None, None)
      results.append(
        interface.Result(
          metric=name,
          value=float(value),
          low=low,
          high=high,
          outcomes=outcomes,
          **common,
        )
      )
    return results

  def _load(self) -> Any:
    tasks = library.module("tasks")
    try:
      with library.quiet(), library.seeded():
        # The index of lm_eval's own tasks takes seconds.
        manager = tasks.TaskManager(include_defaults=not self._is_file)
        loaded = manager.load([self.task])["tasks"]
    except KeyError as error:
      raise ValueError(
        "Harness.tasks must be tasks of lm-evaluation-harness, or .yaml files "
        f"of such, got {self.task}. `lm_eval ls tasks` lists them."
      ) from error
    except OSError as error:
      raise ValueError(
        f"{self.name} needs its data, got {type(error).__name__}: "
        f"{str(error).splitlines()[0]} Connect to the network once, or give a "
        ".yaml file of the task with a dataset_path of yours."
      ) from error
    if len(loaded) > 1:
      raise ValueError(
        f"Harness.tasks must be single tasks, got {self.task}, which stands "
        f"for {', '.join(loaded)}. Name some of these."
      )
    (found,) = loaded.values()
    shots = found.get_config("num_fewshot")
    if shots != 0 and self.num_fewshot is not None:
      shots = self.num_fewshot
    found.set_config(key="num_fewshot", value=shots or 0)
    return found


def _outcomes(
  values: Sequence[Any], value: float
) -> tuple[tuple[float, ...], tuple[float, float] | None]:
  """Returns the outcomes whose mean is the value, and its interval."""
  if not all(isinstance(x, bool | int | float | np.number) for x in values):
    return (), None
  outcomes = tuple(map(float, values))
  if not np.isclose(np.mean(outcomes), value):
    return (), None
  if all(0 <= x <= 1 for x in outcomes):
    return outcomes, intervals.wilson(sum(outcomes), len(outcomes))
  return outcomes, intervals.bootstrap(outcomes)
