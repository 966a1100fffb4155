"""What an eval sees of a model, and what it returns.

No eval knows how a model computes: the same task runs on a RoPE, YaRN or DroPE
checkpoint, on another library's model, and on a fake in a test.
"""

from collections.abc import Sequence
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
    low, high: its interval over samples; NaN where there is only one.
    count: samples or documents.
    mean_tokens: realized mean length of the inputs in tokens.
    series: (position or depth, value) of the metric, where it has one.
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
  low: float
  high: float
  count: int
  seed: int
  mean_tokens: float
  series: tuple[tuple[int, float], ...] | None = None

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON values; NaN, which JSON lacks, is None."""
    row = dataclasses.asdict(self)
    return {
      name: None if isinstance(value, float) and math.isnan(value) else value
      for name, value in row.items()
    }
