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

  Cut them once at the longest length to be tested: `evaluate` reads the last
  part for a shorter one, so that all lengths are compared on the same tokens.

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
  excerpts: Sequence[Sequence[int]],
  length: int,
  condition: interface.Condition,
  prefix: Sequence[int] = (),
) -> list[interface.Result]:
  """Returns "loss" and "tail_loss" over the last tokens of each excerpt.

  "tail_loss" is the mean over the last `lm.context_tokens - 1` tokens of each
  excerpt. Whatever the length, these are the same tokens, read after more or
  less of the text before them, so that a change of it with the length is one of
  context alone: a model that extrapolates gains, because it has read more.

  "loss" is the mean over all that is read, and so over other tokens at each
  length; compare it within one. Its series is by position, in buckets of an
  eighth of the context, alike for every length, each named by its middle.

  Outcomes are the excerpts' means, since an excerpt is what is drawn: losses
  within one are alike, and would pass for more evidence than they are. The
  interval is a bootstrap over them (`intervals.bootstrap`).

  Each length is scored anew rather than read off the longest: a scheme may
  change with the length.

  Args:
    excerpts: from `excerpts`, of the longest length to be tested.
    length: of what is read, `prefix` included, in tokens.
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
  sequences = [[*prefix, *excerpt[-read:]] for excerpt in excerpts]
  losses_BS = np.stack(_losses(lm, sequences, condition.logit_scale))
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
  tail = lm.context_tokens - 1
  results = []
  for metric, mean_B, points in (
    ("loss", losses_BS.mean(1), series),
    ("tail_loss", losses_BS[:, -tail:].mean(1), None),
  ):
    low, high = intervals.bootstrap(mean_B) or (None, None)
    results.append(
      interface.Result(
        task="perplexity",
        metric=metric,
        factor=length / lm.context_tokens,
        context_tokens=lm.context_tokens,
        value=float(mean_B.mean()),
        low=low,
        high=high,
        count=len(mean_B),
        mean_tokens=float(length),
        outcomes=tuple(mean_B.tolist()),
        series=points,
        **vars(condition),
      )
    )
  return results


def mean_loss(
  lm: interface.LM, documents: Sequence[Sequence[int]], logit_scale: float
) -> float:
  """Returns the mean loss over all of the documents' tokens, in nats."""
  return float(np.concatenate(_losses(lm, documents, logit_scale)).mean())


def _losses(lm, sequences, logit_scale) -> list[np.ndarray]:
  """Returns the losses of each sequence's predictions."""
  scored = lm.with_logit_scale(logit_scale).loglikelihood(sequences)
  return [-np.asarray(one, np.float64) for one in scored]
