"""Token loss by length and by position.

Losses are means in nats a token. Perplexity, their exponential, is computed
where it is shown, since intervals and differences are taken in nats.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math

import numpy as np

from drope_jax.evals import interface, intervals
from drope_jax.evals.metric import NATS, Metric
from drope_jax.evals.task import Order

_SAME_TOKENS = "loss of each text's end (the same tokens at every length)"
LOSS = Metric(
  name="loss",
  title="loss",
  topic="Loss",
  unit=NATS,
  higher_is_better=False,
  plots=("position",),
)
TAIL_LOSS = dataclasses.replace(
  LOSS, name="tail_loss", title=_SAME_TOKENS, plots=("table",)
)
BITS_PER_BYTE = dataclasses.replace(
  TAIL_LOSS,
  name="bits_per_byte",
  title="bits per byte of each text's end, which no tokenizer changes",
  unit="bits a byte",
)


@dataclasses.dataclass(frozen=True)
class Perplexity:
  """Loss on runs of held-out text."""

  name = "perplexity"

  @property
  def metrics(self) -> tuple[Metric, ...]:
    return LOSS, TAIL_LOSS, BITS_PER_BYTE

  def draw(self, order: Order) -> Mapping[int, Sequence[Sequence[int]]]:
    """Returns the ends of the same excerpts for each length."""
    longest = max(order.lengths) - len(order.prefix)
    found = ordered_excerpts(order, longest)
    return {
      length: sequences(found, length, order.prefix) for length in order.lengths
    }

  def evaluate(
    self,
    lm: interface.LM,
    samples: Sequence[Sequence[int]],
    condition: interface.Condition,
  ) -> list[interface.Result]:
    """See the function `evaluate`."""
    return evaluate(lm, samples, condition)


def ordered_excerpts(order: Order, tokens: int) -> list[list[int]]:
  """Returns as many `excerpts` of its documents as an order asks for.

  Raises:
    ValueError: the documents hold fewer.
  """
  encoded = map(order.encode, order.documents)
  try:
    return excerpts(encoded, tokens, order.excerpts, order.seed)
  except ValueError as error:
    raise ValueError(f"Suite.excerpts: {error}") from error


def excerpts(
  documents: Iterable[Sequence[int]], tokens: int, count: int, seed: int
) -> list[list[int]]:
  """Returns `count` disjoint runs of `tokens` ids, each within one document.

  Cut them once at the longest length to be tested: `sequences` takes the end
  of each for a shorter one, so that all lengths end in the same tokens.

  Raises:
    ValueError: the documents hold fewer.
  """
  runs = [
    list(document[start : start + tokens])
    for document in documents
    for start in range(0, len(document) - tokens + 1, tokens)
  ]
  if len(runs) < count:
    raise ValueError(
      f"{count} excerpts of {tokens} tokens are needed, got documents that "
      f"hold {len(runs)}. Ask for fewer or shorter ones, or pass more text."
    )
  order = np.random.default_rng(seed).permutation(len(runs))
  return [runs[i] for i in order[:count]]


def sequences(
  excerpts: Sequence[Sequence[int]], length: int, prefix: Sequence[int] = ()
) -> list[list[int]]:
  """Returns the prefix and the end of each excerpt, `length` tokens together.

  Args:
    excerpts: from the function of this name.
    length: in tokens, `prefix` included.
    prefix: ids that every input begins with, such as BOS.

  Raises:
    ValueError: an excerpt is too short, or there is none.
  """
  read = length - len(prefix)
  shortest = min(map(len, excerpts), default=0)
  if shortest < read or read < 2:
    raise ValueError(
      f"A length of {length} tokens needs excerpts of at least {max(read, 2)}, "
      f"got {len(excerpts)}, the shortest of {shortest}. Pass longer ones, or "
      "ask for a shorter length."
    )
  return [[*prefix, *excerpt[-read:]] for excerpt in excerpts]


def evaluate(
  lm: interface.LM,
  sequences: Sequence[Sequence[int]],
  condition: interface.Condition,
) -> list[interface.Result]:
  """Returns "loss", "tail_loss" and "bits_per_byte" of sequences of one length.

  "tail_loss" is the mean over the last `lm.context_tokens - 1` tokens of each
  sequence. These are the same tokens at every length, after more or less text,
  so that it changes by context alone: that of a model that extrapolates falls
  with the length. "bits_per_byte" is the same loss by the bytes of these
  tokens' text in UTF-8, by which models with other tokenizers compare.

  "loss" is the mean over all tokens, and so over other tokens at each length;
  compare it within one length. Its series is by position, in buckets of an
  eighth of the context, each named by its middle.

  Outcomes are the means of the sequences, since sequences are drawn
  independently and tokens are not. The interval is a bootstrap over them
  (`intervals.bootstrap`).

  Each length is scored by itself, since a position scheme may depend on it.
  """
  length = len(sequences[0])
  losses_BS = np.stack(losses(lm, sequences, condition.logit_scale))
  width = max(lm.context_tokens // 8, 1)
  # Prediction i is of token i + 1.
  series = tuple(
    (
      start + width // 2,
      float(losses_BS[:, max(start - 1, 0) : stop - 1].mean()),
    )
    for start in range(0, length, width)
    if (stop := start + width) > 1
  )
  tail_BS = losses_BS[:, -(lm.context_tokens - 1) :]
  size_B = [_bytes(lm, sequence, tail_BS.shape[1]) for sequence in sequences]
  return [
    result(Perplexity.name, metric, lm, length, mean_B, condition, points)
    for metric, mean_B, points in (
      (LOSS, losses_BS.mean(1), series),
      (TAIL_LOSS, tail_BS.mean(1), None),
      (BITS_PER_BYTE, tail_BS.sum(1) / math.log(2) / size_B, None),
    )
  ]


def result(
  task: str,
  metric: Metric,
  lm: interface.LM,
  length: int,
  mean_B: Sequence[float],
  condition: interface.Condition,
  series: tuple[tuple[int, float], ...] | None = None,
) -> interface.Result:
  """Returns the result of a metric whose interval is a bootstrap.

  Args:
    task: its name.
    metric: what `mean_B` is.
    lm: the model.
    length: tokens of each text.
    mean_B: the value of each text.
    condition: of the model.
    series: see `interface.Result`.
  """
  low, high = intervals.bootstrap(mean_B) or (None, None)
  return interface.Result(
    task=task,
    metric=metric.name,
    factor=length / lm.context_tokens,
    context_tokens=lm.context_tokens,
    value=float(np.mean(mean_B)),
    low=low,
    high=high,
    count=len(mean_B),
    mean_tokens=float(length),
    outcomes=tuple(map(float, mean_B)),
    series=series,
    **vars(condition),
  )


def mean_loss(
  lm: interface.LM, documents: Sequence[Sequence[int]], logit_scale: float
) -> float:
  """Returns the mean loss over all of the documents' tokens, in nats."""
  return float(np.concatenate(losses(lm, documents, logit_scale)).mean())


def losses(
  lm: interface.LM, sequences: Sequence[Sequence[int]], logit_scale: float
) -> list[np.ndarray]:
  """Returns the losses in nats of each sequence's tokens, from its second."""
  scored = lm.with_logit_scale(logit_scale).loglikelihood(sequences)
  return [-np.asarray(one, np.float64) for one in scored]


def _bytes(lm: interface.LM, ids: Sequence[int], tail: int) -> int:
  """Returns the bytes of the text of the last `tail` ids."""
  # A tokenizer may treat the first id of a text in another way.
  whole, before = (lm.decode(part) for part in (ids, ids[: len(ids) - tail]))
  return max(len(whole.encode()) - len(before.encode()), 1)
