"""One task of LongBench: its prompts, cut to a length, and its answers, scored.

Source: THUDM/LongBench 2e00731, LongBench/pred.py and eval.py.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from drope_jax.evals import interface, intervals
from drope_jax.evals.longbench import questions, scores
from drope_jax.evals.longbench.prompts import PROMPTS
from drope_jax.evals.metric import SHARE, Metric
from drope_jax.evals.task import Order

EXTENDED = (("0-4k", 0), ("4-8k", 4000), ("8k+", 8000))
"""The ranges of LongBench-E: a name, and the words of text it begins with."""

RANGES = (
  ("0-4k", 0),
  ("4-8k", 4000),
  ("8-16k", 8000),
  ("16-32k", 16_000),
  ("32k+", 32_000),
)
"""Ranges for the tasks that are not made for some: those of DroPE's tables."""


@dataclasses.dataclass(frozen=True)
class Kind:
  """What a task of LongBench is.

  Attributes:
    new_tokens: to generate.
    score: of an output.
    first_line: whether only the first line of an output counts.
  """

  new_tokens: int
  score: scores.Score
  first_line: bool = False


@dataclasses.dataclass(frozen=True)
class Sample:
  """One prompt with its answers.

  Attributes:
    prompt: its text, after cutting.
    prompt_tokens: its ids, BOS included where the suite has one.
    question: that it asks.
    length: tokens that it was cut to, new tokens included.
    max_new_tokens: to generate.
    truncated: whether something was cut out.
  """

  prompt: str
  prompt_tokens: tuple[int, ...]
  question: questions.Question
  length: int
  max_new_tokens: int
  truncated: bool


@dataclasses.dataclass(frozen=True)
class LongBenchTask:
  """One task of LongBench, or of LongBench-E.

  Attributes:
    name: LongBench's; that of LongBench-E ends in _e.
    folder: of LongBench's files.
  """

  name: str
  folder: str | None = None

  @property
  def of(self) -> str:
    """The name without _e."""
    return self.name.removesuffix("_e")

  @property
  def metrics(self) -> tuple[Metric, ...]:
    return (
      Metric(
        name="score",
        title=f"LongBench's full score, by {KINDS[self.of].score.measures}",
        topic="LongBench",
        unit=SHARE,
        higher_is_better=True,
        plots=("length", "part"),
      ),
    )

  def draw(self, order: Order) -> Mapping[int, Sequence[Sample]]:
    """See `task.Task.draw`; a question may stand for several places apart.

    Of more questions than the suite asks for, some at even distances are taken.
    """
    kind = KINDS[self.of]
    for name in kind.score.libraries:
      scores.imported(name)
    asked = questions.load(self.folder, self.name)
    new_tokens = order.max_new_tokens or kind.new_tokens
    found = {}
    for length, count in zip(order.lengths, order.counts, strict=True):
      room = length - new_tokens
      if room < 2:
        raise ValueError(
          f"{self.name} generates {new_tokens} tokens after its prompt, got a "
          f"length of {length}. Test it at a longer length, or lower "
          "Suite.max_new_tokens."
        )
      count = min(count, len(asked))
      chosen = [asked[i * len(asked) // count] for i in range(count)]
      found[length] = [
        self._sample(question, order, length, new_tokens) for question in chosen
      ]
    return found

  def evaluate(
    self,
    lm: interface.LM,
    samples: Sequence[Sample],
    condition: interface.Condition,
  ) -> list[interface.Result]:
    """Returns the mean score, by the number of words too; see `interface.Part`.

    Intervals are Wilson's.
    """
    lm = lm.with_logit_scale(condition.logit_scale)
    (length,) = {sample.length for sample in samples}
    (new_tokens,) = {sample.max_new_tokens for sample in samples}
    outputs = lm.generate([s.prompt_tokens for s in samples], new_tokens)
    outcomes = [
      self.score(interface.text(lm, ids), sample.question)
      for ids, sample in zip(outputs, samples, strict=True)
    ]
    whole, *parts = self._parts(samples, outcomes)
    return [
      interface.Result(
        task=self.name,
        metric=self.metrics[0].name,
        factor=length / lm.context_tokens,
        context_tokens=lm.context_tokens,
        value=whole.value,
        low=whole.low,
        high=whole.high,
        count=whole.count,
        truncated=whole.truncated,
        mean_tokens=float(np.mean([len(s.prompt_tokens) for s in samples])),
        outcomes=tuple(outcomes),
        parts=tuple(parts),
        **vars(condition),
      )
    ]

  def score(self, output: str, question: questions.Question) -> float:
    """Returns the best score of an output over the answers, 0 to 1."""
    kind = KINDS[self.of]
    if kind.first_line:
      output = output.lstrip("\n").split("\n")[0]
    found = (
      kind.score.of(output, answer, question.classes)
      for answer in question.answers
    )
    return max(found, default=0.0)

  def _sample(self, question, order, length, new_tokens) -> Sample:
    prompt = PROMPTS[self.of].format(
      input=question.input, context=question.context
    )
    ids = [*order.prefix, *order.encode(prompt)]
    room = length - new_tokens
    truncated, whole, half = len(ids) > room, ids, room // 2
    # A character that is cut in half may become more tokens.
    while len(ids) > room and half:
      begins, ends = whole[len(order.prefix) : half], whole[-half:]
      prompt = order.decode(begins) + order.decode(ends)
      ids = [*order.prefix, *order.encode(prompt)]
      half -= 1
    return Sample(
      prompt=prompt,
      prompt_tokens=tuple(ids),
      question=question,
      length=length,
      max_new_tokens=new_tokens,
      truncated=truncated,
    )

  def _parts(self, samples, outcomes) -> list[interface.Part]:
    """Returns the whole, and then the part of each range with questions."""
    ranges = EXTENDED if self.name.endswith("_e") else RANGES
    names: list[str] = [
      [name for name, words in ranges if words <= s.question.words][-1]
      for s in samples
    ]
    found = [_part("all", samples, outcomes)]
    for name, _ in ranges:
      own = [i for i, of in enumerate(names) if of == name]
      if own:
        chosen = ([values[i] for i in own] for values in (samples, outcomes))
        found.append(_part(name, *chosen))
    return found


def _part(name, samples, outcomes) -> interface.Part:
  low, high = intervals.wilson(sum(outcomes), len(outcomes))
  return interface.Part(
    name=name,
    value=float(np.mean(outcomes)),
    low=low,
    high=high,
    count=len(outcomes),
    truncated=float(np.mean([sample.truncated for sample in samples])),
  )


KINDS: Mapping[str, Kind] = {
  "narrativeqa": Kind(128, scores.QA_F1),
  "qasper": Kind(128, scores.QA_F1),
  "multifieldqa_en": Kind(64, scores.QA_F1),
  "multifieldqa_zh": Kind(64, scores.QA_F1_ZH),
  "hotpotqa": Kind(32, scores.QA_F1),
  "2wikimqa": Kind(32, scores.QA_F1),
  "musique": Kind(32, scores.QA_F1),
  "dureader": Kind(128, scores.ROUGE_L_ZH),
  "gov_report": Kind(512, scores.ROUGE_L),
  "qmsum": Kind(512, scores.ROUGE_L),
  "multi_news": Kind(512, scores.ROUGE_L),
  "vcsum": Kind(512, scores.ROUGE_L_ZH),
  "trec": Kind(64, scores.CLASSIFICATION, first_line=True),
  "triviaqa": Kind(32, scores.QA_F1, first_line=True),
  "samsum": Kind(128, scores.ROUGE_L, first_line=True),
  "lsht": Kind(64, scores.CLASSIFICATION, first_line=True),
  "passage_count": Kind(32, scores.COUNT),
  "passage_retrieval_en": Kind(32, scores.RETRIEVAL),
  "passage_retrieval_zh": Kind(32, scores.RETRIEVAL_ZH),
  "lcc": Kind(64, scores.CODE_SIMILARITY),
  "repobench-p": Kind(64, scores.CODE_SIMILARITY),
}
"""LongBench's tasks, in its order."""
