"""Prompts that ask for something in them: the answers, scored.

What the prompts hold is the matter of the tasks (`niah`, `ruler`).
"""

import collections
from collections.abc import Sequence
import dataclasses

import numpy as np

from drope_jax.evals import interface, intervals, matching
from drope_jax.evals.metric import SHARE, Metric
from drope_jax.evals.task import Task

SENTENCE_END, LINE_END = r"[.!?\n]", r"\n"
_DEPTH_BUCKET = 20

ACCURACY = Metric(
  name="accuracy",
  title="questions answered exactly",
  topic="Retrieval",
  unit=SHARE,
  higher_is_better=True,
  plots=("length", "table", "depth"),
)
MATCH_ALL = Metric(
  name="string_match_all",
  title="answers found anywhere in the output, RULER's score",
  topic="Retrieval",
  unit=SHARE,
  higher_is_better=True,
  plots=(),
)
MATCH_PART = dataclasses.replace(MATCH_ALL, name="string_match_part")
ALL_NEEDED = (ACCURACY, MATCH_ALL)
"""Metrics of questions that need every answer."""
ONE_NEEDED = (ACCURACY, MATCH_PART)
"""Metrics of questions for which one of the answers is enough."""


@dataclasses.dataclass(frozen=True)
class Sample:
  """One prompt with its answers.

  Attributes:
    prompt: its text, the beginning of the answer included.
    prompt_tokens: its ids, BOS included where the suite has one.
    answers: in the order in which they are asked for.
    length: tokens that the prompt was made for, new tokens included.
    max_new_tokens: to generate.
    others: values in the prompt that are not asked for.
    queries: the keys asked for.
    depth: of the first answer, in percent of the text from its start; None
      where it has no single place.
    ends: regular expression; the strict score reads the output up to its first
      match.
    alternatives: whether one of the answers is enough.
    ordered: whether the strict score needs the answers in this order.
    together: how many samples in a row are about the same text.
  """

  prompt: str
  prompt_tokens: tuple[int, ...]
  answers: tuple[str, ...]
  length: int
  max_new_tokens: int
  others: tuple[str, ...] = ()
  queries: tuple[str, ...] = ()
  depth: int | None = None
  ends: str = SENTENCE_END
  alternatives: bool = False
  ordered: bool = False
  together: int = 1


class RetrievalTask:
  """The base of tasks that draw samples of questions and answers."""

  def evaluate(
    self: Task,
    lm: interface.LM,
    samples: Sequence[Sample],
    condition: interface.Condition,
  ) -> list[interface.Result]:
    """See `retrieval.evaluate`."""
    return evaluate(self.name, lm, samples, condition)


def evaluate(
  task: str,
  lm: interface.LM,
  samples: Sequence[Sample],
  condition: interface.Condition,
) -> list[interface.Result]:
  """Returns "accuracy" (strict) and RULER's score of the samples.

  The latter is "string_match_part" where one answer is enough, and otherwise
  "string_match_all". Outcomes are each question's. "accuracy" has a series by
  depth, in fifths of the text, and the kinds of errors. Intervals are Wilson's,
  of `intervals.effective_count` where samples are about the same text.

  Raises:
    ValueError: there is no sample, or they differ in length.
  """
  lengths = {sample.length for sample in samples}
  if len(lengths) != 1:
    raise ValueError(
      f"{task} needs samples of one length, got "
      f"{sorted(lengths) or 'no sample'}. Evaluate each length by itself."
    )
  (length,) = lengths
  outputs = _outputs(lm.with_logit_scale(condition.logit_scale), samples)
  pairs = list(zip(outputs, samples, strict=True))
  exact = [_is_exact(*pair) for pair in pairs]
  errors = collections.Counter(
    _error(*pair) for pair, right in zip(pairs, exact, strict=True) if not right
  )
  kinds = matching.ORDERED_ERRORS if samples[0].ordered else matching.ERRORS
  match = MATCH_PART if samples[0].alternatives else MATCH_ALL
  return [
    _result(task, metric, lm, length, samples, values, condition, **more)
    for metric, values, more in (
      (
        ACCURACY,
        [float(right) for right in exact],
        {
          "series": _by_depth(samples, exact),
          "errors": {kind: errors[kind] for kind in kinds},
        },
      ),
      (match, [_matched(*pair) for pair in pairs], {}),
    )
  ]


def _outputs(lm: interface.LM, samples: Sequence[Sample]) -> list[str]:
  (max_new_tokens,) = {sample.max_new_tokens for sample in samples}
  prompts = [sample.prompt_tokens for sample in samples]
  outputs = lm.generate(prompts, max_new_tokens)
  return [interface.text(lm, ids) for ids in outputs]


def _is_exact(output: str, sample: Sample) -> bool:
  return matching.is_exact(
    matching.first_part(output, sample.ends),
    sample.answers,
    sample.others,
    alternatives=sample.alternatives,
    ordered=sample.ordered,
  )


def _error(output: str, sample: Sample) -> str:
  said = matching.first_part(output, sample.ends)
  return matching.error(said, sample.answers, sample.others)


def _matched(output: str, sample: Sample) -> float:
  if sample.alternatives:
    return matching.string_match_part(output, sample.answers)
  return matching.string_match_all(output, sample.answers)


def _result(task, metric, lm, length, samples, values, condition, **more):
  n, together = len(values), samples[0].together
  count = intervals.effective_count(values, np.arange(n) // together)
  low, high = intervals.wilson(sum(values) * count / n, count)
  tokens = [len(sample.prompt_tokens) for sample in samples]
  return interface.Result(
    task=task,
    metric=metric.name,
    factor=length / lm.context_tokens,
    context_tokens=lm.context_tokens,
    value=float(np.mean(values)),
    low=low,
    high=high,
    count=n,
    mean_tokens=float(np.mean(tokens)),
    outcomes=tuple(values),
    together=together,
    **more,
    **vars(condition),
  )


def _by_depth(samples, values) -> tuple[tuple[int, float], ...] | None:
  """Returns the mean of values by depth, each bucket named by its middle."""
  depths = [sample.depth for sample in samples]
  if None in depths:
    return None
  buckets = np.minimum(depths, 99) // _DEPTH_BUCKET
  return tuple(
    (
      int(bucket * _DEPTH_BUCKET + _DEPTH_BUCKET // 2),
      float(np.mean(np.array(values)[buckets == bucket])),
    )
    for bucket in np.unique(buckets)
  )
