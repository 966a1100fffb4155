"""Token loss by length and by position.

Losses are means in nats a token (perplexity is their exponential, taken by
whoever shows them: intervals and differences are honest in nats).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from drope_jax.evals import interface, intervals


def excerpts(
  documents: Iterable[Sequence[int]], tokens: int, count: int, seed: int
) -> list[list[int]]:
  """Returns `count` disjoint runs of `tokens` ids, none across documents.

  Cut them once at the longest length to be tested: `evaluate` reads the first
  part for a shorter one, so that all lengths are compared on the same text.

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


def evaluate(
  lm: interface.LM,
  documents: Sequence[Sequence[int]],
  factor: float,
  condition: interface.Condition,
) -> list[interface.Result]:
  """Returns "loss" and "tail_loss" over the documents' first tokens.

  "loss" is the mean over all predictions within the first `factor *
  lm.context_tokens` tokens, rounded, and the factor of the results is of that
  length. It averages in what is read at short range, so it can hide what
  happens at the end; "tail_loss" is the mean over the last `lm.context_tokens`
  of them, where a model that extrapolates is better than at 1x, because it has
  read more. The series of "loss" is by position, in buckets of an eighth of the
  context, alike for every factor, each named by its middle. The interval is
  over documents, the unit that is drawn.

  Each factor is scored anew rather than read off the longest: a scheme may
  change with the length.

  Raises:
    ValueError: a document is shorter than the length, or there is none.
  """
  losses_BS = _losses(lm, documents, factor, condition.logit_scale)
  width = max(lm.context_tokens // 8, 1)
  # Prediction i is of token i + 1.
  series = tuple(
    (
      start + width // 2,
      float(losses_BS[:, max(start - 1, 0) : stop - 1].mean()),
    )
    for start in range(0, losses_BS.shape[1] + 1, width)
    if (stop := start + width) > 1
  )
  means = {
    "loss": (losses_BS.mean(1), series),
    "tail_loss": (losses_BS[:, -lm.context_tokens :].mean(1), None),
  }
  results = []
  for metric, (mean_B, points) in means.items():
    low, high = intervals.mean_interval(mean_B)
    results.append(
      interface.Result(
        task="perplexity",
        metric=metric,
        factor=(losses_BS.shape[1] + 1) / lm.context_tokens,
        context_tokens=lm.context_tokens,
        value=float(mean_B.mean()),
        low=low,
        high=high,
        count=len(mean_B),
        mean_tokens=float(losses_BS.shape[1] + 1),
        series=points,
        **vars(condition),
      )
    )
  return results


def mean_loss(
  lm: interface.LM,
  documents: Sequence[Sequence[int]],
  factor: float,
  logit_scale: float,
) -> float:
  """Returns the value of "loss" alone, in nats; see `evaluate`."""
  return float(_losses(lm, documents, factor, logit_scale).mean())


def _losses(lm, documents, factor, logit_scale) -> np.ndarray:
  """Returns the losses of each document's predictions, [B, length - 1]."""
  length = round(factor * lm.context_tokens)
  shortest = min(map(len, documents), default=0)
  if shortest < length or length < 2:
    raise ValueError(
      f"Factor {factor} of {lm.context_tokens} tokens needs documents of at "
      f"least {max(length, 2)} tokens, got {len(documents)}, the shortest of "
      f"{shortest}. Pass longer documents (`excerpts`) or a smaller factor."
    )
  sequences = [document[:length] for document in documents]
  scored = lm.with_logit_scale(logit_scale).loglikelihood(sequences)
  return -np.stack(scored).astype(np.float64)
