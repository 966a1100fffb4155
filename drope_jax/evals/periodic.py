"""A suite that measures a training as it goes."""

from collections.abc import Iterator
import dataclasses

from drope_jax.evals.metric import Metric
from drope_jax.evals.suite import Suite

SCALED = "scaled"
"""Ends the name of a score with a fitted softmax scale."""


@dataclasses.dataclass(frozen=True)
class Periodic:
  """When a suite is evaluated during a training, and on what.

  A score has a name such as "multi_key.accuracy.2x" (task, metric, length), of
  another method "multi_key.accuracy.2x.crop", and with a fitted scale
  "multi_key.accuracy.2x.scaled".

  Attributes:
    suite: what to evaluate.
    every_steps: between measurements; the phase ends with one more.
    budget_minutes: of a measurement: what has not begun by then is left out of
      it. The order is the suite's: lengths, methods, tasks. None: all is
      measured.
    text: inputs of held-out text, as of `drope evaluate --text`.
    fit_text: inputs of the text that a softmax scale is fitted on.
    best: the score by which RUN/best is chosen among the saves at which it was
      measured; None: the held-out loss.
  """

  suite: Suite
  every_steps: int = 500
  budget_minutes: float | None = 10.0
  text: tuple[str, ...] = ("packaged:test",)
  fit_text: tuple[str, ...] = ("packaged:fit",)
  best: str | None = None

  def __post_init__(self):
    if self.every_steps < 1:
      raise ValueError(
        "Periodic.every_steps must be at least 1, got "
        f"{self.every_steps}. Raise it."
      )
    if self.budget_minutes is not None and not self.budget_minutes > 0:
      raise ValueError(
        "Periodic.budget_minutes must be more than 0, got "
        f"{self.budget_minutes}. Raise it, or set None for no limit."
      )
    scores = dict(self.scores())
    if self.best is not None and self.best not in scores:
      raise ValueError(
        "Periodic.best must be a score of the suite, got "
        f"{self.best!r}. Name one such as {', '.join(list(scores)[:4])}."
      )

  def scores(self) -> Iterator[tuple[str, Metric]]:
    """Yields the name and the metric of each score that there can be."""
    suite = self.suite
    for factor in suite.factors:
      for method in suite.methods:
        # At the trained length a fitted scale is 1, and nothing is fitted.
        fits = suite.fit_factor is not None and factor != 1
        fitted = (False, True) if fits else (False,)
        for task in suite.tasks:
          for metric in task.metrics:
            for scaled in fitted:
              name = score_name(task.name, metric.name, factor, method, scaled)
              yield name, metric

  @property
  def best_is_highest(self) -> bool:
    """Whether more of the best score is better."""
    return dict(self.scores())[self.best or ""].higher_is_better


def score_name(
  task: str, metric: str, factor: float, method: str, scaled: bool
) -> str:
  """Returns the name of a score in metrics.jsonl."""
  parts = [task, metric, f"{factor:g}x"]
  parts += [method] if method != "model" else []
  parts += [SCALED] if scaled else []
  return ".".join(parts)
