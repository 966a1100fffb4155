"""The interface between evals and models, and the results of evals.

No eval depends on how a model computes. The same task runs on a RoPE, YaRN or
DroPE checkpoint, on another library's model, and on a fake in a test.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, NamedTuple, Protocol, Self

import numpy as np


class Scored(NamedTuple):
  """What a model finds of each token of an ending.

  Attributes:
    log_p: log p(token | context and tokens before) in nats.
    is_top: whether no other token was likelier.
  """

  log_p: np.ndarray
  is_top: np.ndarray


class LM(Protocol):
  """A language model with its tokenizer.

  Attributes:
    eos_id: ends a document.
    bos_id: begins a document; None where the model has no such id.
    context_tokens: the trained length, of which factors are multiples.
  """

  @property
  def eos_id(self) -> int: ...

  @property
  def bos_id(self) -> int | None: ...

  @property
  def context_tokens(self) -> int: ...

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without BOS or EOS."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of `ids`."""
    ...

  def batch_size(self, tokens: int) -> int:
    """Returns how many sequences of a length it reads at once."""
    ...

  def loglikelihood(
    self, sequences: Sequence[Sequence[int]]
  ) -> list[np.ndarray]:
    """Returns log p(token i | tokens before) in nats, i = 1 .. len - 1."""
    ...

  def score(
    self, contexts: Sequence[Sequence[int]], endings: Sequence[Sequence[int]]
  ) -> list[Scored]:
    """Returns what it finds of each ending after its context.

    A context has a token at least. One that has several endings is read once.
    """
    ...

  def generate(
    self,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stop: Sequence[str] = (),
  ) -> list[list[int]]:
    """Returns greedy continuations, without the prompts.

    EOS ends a continuation, or another end id of the model, such as that of a
    chat's turn, or the id that completes one of the strings of `stop`.
    """
    ...

  def logit_scale_at(self, tokens: int) -> float:
    """Returns the model's own factor of attention logits at a length."""
    ...

  def with_logit_scale(self, scale: float) -> Self:
    """Returns the model with its attention logits multiplied by `scale`.

    A second call replaces the scale of the first. YaRN's own factor, which is a
    part of the position scheme, stays.
    """
    ...

  def with_logit_slope(self, c: float, *, by_query: bool = False) -> Self:
    """Returns the model with a scale of 1 + c ln s for each text by itself.

    s is the text's length / trained length, at least 1. The scale multiplies
    the model's own within the trained length.

    Args:
      c: the slope.
      by_query: whether s is of each query by itself: its place in the text,
        from 1, / trained length.
    """
    ...


def text(lm: LM, ids: Sequence[int]) -> str:
  """Returns the text of generated ids, without EOS."""
  return lm.decode([token for token in ids if token != lm.eos_id])


@dataclasses.dataclass(frozen=True)
class Wrapper:
  """What a wrapped `LM` hands on unchanged.

  Attributes:
    lm: the model that reads.
  """

  lm: LM

  @property
  def eos_id(self) -> int:
    return self.lm.eos_id

  @property
  def bos_id(self) -> int | None:
    return self.lm.bos_id

  @property
  def context_tokens(self) -> int:
    return self.lm.context_tokens

  def encode(self, text: str) -> list[int]:
    return self.lm.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    return self.lm.decode(ids)


@dataclasses.dataclass(frozen=True)
class Condition:
  """How a model is evaluated.

  Attributes:
    model: the checkpoint's name in a report.
    method: the position method: "model", "yarn", ...
    logit_scale: that the eval passes to `LM.with_logit_scale`; where a suite
      scales by each text's own length, that of a text of the tested length;
      where it scales by each query's place, that of the last one.
    scale_fitted: whether the scale was fitted, on other text.
    seed: of the samples.
  """

  model: str
  method: str
  logit_scale: float = 1.0
  scale_fitted: bool = False
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
  """The metric on some of the samples.

  Attributes:
    name: which samples these are, such as "4-8k".
    value, low, high, count, truncated: as of `Result`, of these samples.
  """

  name: str
  value: float
  low: float | None
  high: float | None
  count: int
  truncated: float | None = None


@dataclasses.dataclass(frozen=True)
class Result:
  """One number of an eval with its 95% interval: a row of results.json.

  Attributes:
    factor: tested length / `context_tokens`; the length is whole tokens.
    context_tokens: the trained length.
    value: the metric; losses in nats a token, accuracies in 0 to 1.
    low, high: of the interval over samples; None where samples are too few.
    count: of samples.
    mean_tokens: mean length of the inputs in tokens.
    outcomes: the value of each sample; `value` is their mean. All models and
      methods have the same samples in the same order, so outcomes are paired.
    together: how many samples in a row are about the same text, so that they
      are not independent.
    series: (position or depth, value) of the metric, if it has a series.
    errors: how many wrong answers there were of each kind, for a metric of
      answers.
    truncated: the share of the samples from which something was cut to fit the
      length; None for a task whose samples are made for a length.
    parts: the metric on the samples of each range of lengths, if the task's
      samples have lengths of their own.
  """

  task: str
  metric: str
  model: str
  method: str
  factor: float
  context_tokens: int
  logit_scale: float
  scale_fitted: bool
  value: float
  low: float | None
  high: float | None
  count: int
  seed: int
  mean_tokens: float
  outcomes: tuple[float, ...]
  together: int = 1
  series: tuple[tuple[int, float], ...] | None = None
  errors: Mapping[str, int] | None = None
  truncated: float | None = None
  parts: tuple[Part, ...] | None = None

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON values, with None for NaN."""
    return {
      **dataclasses.asdict(self),
      "value": _to_json(self.value),
      "outcomes": [_to_json(x) for x in self.outcomes],
      "series": self.series and [(x, _to_json(y)) for x, y in self.series],
    }

  @classmethod
  def from_dict(cls, row: Mapping[str, Any]) -> Self:
    """Returns the result of a row from `to_dict`, after a pass through JSON."""
    series, parts = row["series"], row.get("parts")
    return cls(
      **{
        **row,
        "parts": parts and tuple(Part(**part) for part in parts),
        "value": number(row["value"]),
        "outcomes": tuple(map(number, row["outcomes"])),
        "series": series and tuple((x, number(y)) for x, y in series),
      }
    )


def number(value: float | None) -> float:
  """Returns a number of a JSON file, in which null stands for NaN."""
  return math.nan if value is None else value


def _to_json(value: float) -> float | None:
  return None if math.isnan(value) else value
