"""What an eval sees of a model, and what it returns.

No eval knows how a model computes: the same task runs on a RoPE, YaRN or DroPE
checkpoint, on another library's model, and on a fake in a test.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, Protocol, Self

import numpy as np


class LM(Protocol):
  """A language model with its tokenizer.

  Attributes:
    eos_id: ends a document.
    bos_id: begins one; None where the model knows none.
    context_tokens: the trained length, the base of every length factor.
  """

  eos_id: int
  bos_id: int | None
  context_tokens: int

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without BOS or EOS."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of `ids`."""
    ...

  def loglikelihood(
    self, sequences: Sequence[Sequence[int]]
  ) -> list[np.ndarray]:
    """Returns log p(token i | tokens before) in nats, i = 1 .. len - 1."""
    ...

  def generate(
    self, prompts: Sequence[Sequence[int]], max_new_tokens: int
  ) -> list[list[int]]:
    """Returns greedy continuations without their prompts.

    EOS ends one, or another id at which the model's texts end, as a turn's.
    """
    ...

  def logit_scale_at(self, tokens: int) -> float:
    """Returns the model's own scale of attention logits at a length."""
    ...

  def with_logit_scale(self, scale: float) -> Self:
    """Returns the model with attention logits times `scale`.

    The scale is absolute: a second call replaces the first. A factor that
    belongs to the position scheme (YaRN's) stays.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Condition:
  """Under which a model is evaluated.

  Attributes:
    model: the checkpoint's name in a report.
    method: what was done about length: "rope", "yarn", "drope", ...
    logit_scale: what the eval passes to `LM.with_logit_scale`.
    scale_fitted: whether it was fitted, on a split of its own.
    seed: of the samples drawn.
  """

  model: str
  method: str
  logit_scale: float = 1.0
  scale_fitted: bool = False
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Result:
  """One number of an eval with its 95% interval: a row of results.json.

  Attributes:
    factor: tested length in (whole) tokens / `context_tokens`.
    context_tokens: the trained length.
    value: the metric; losses in nats a token, accuracies in 0 to 1.
    low, high: its interval over samples; None where they are too few for one.
    count: samples or documents.
    mean_tokens: realized mean length of the inputs in tokens.
    outcomes: each sample's own value, whose mean is `value`. The samples stand
      in one order for all models and methods, so that outcomes are paired.
    series: (position or depth, value) of the metric, where it has one.
    errors: how many wrong answers there were of each kind, for a metric of
      answers.
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
  series: tuple[tuple[int, float], ...] | None = None
  errors: Mapping[str, int] | None = None

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON values; NaN, which JSON lacks, is None."""
    return {
      **dataclasses.asdict(self),
      "value": _to_json(self.value),
      "outcomes": [_to_json(x) for x in self.outcomes],
      "series": self.series and [(x, _to_json(y)) for x, y in self.series],
    }

  @classmethod
  def from_dict(cls, row: Mapping[str, Any]) -> Self:
    """Returns the result that `to_dict` and JSON made `row` of."""
    series = row["series"]
    return cls(
      **{
        **row,
        "value": _from_json(row["value"]),
        "outcomes": tuple(map(_from_json, row["outcomes"])),
        "series": series and tuple((x, _from_json(y)) for x, y in series),
      }
    )


def _to_json(value: float) -> float | None:
  return None if math.isnan(value) else value


def _from_json(value: float | None) -> float:
  return math.nan if value is None else value
