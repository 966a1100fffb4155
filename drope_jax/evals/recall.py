"""Recall in natural text: what a loss owes to the text further back.

Language repeats itself. Where the two tokens before a token have stood in the
text before, the token that followed them then often follows again, and a model
that looks it up there predicts it well. By how far back that was, the loss on
such recurring tokens says how far a model's recall reaches, without needles.

Source: the associative-recall hits of Zoology (arXiv:2312.04927), section 3,
which take one token before where this takes a pair, and leave out the pairs
that are frequent in the training text.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from drope_jax.evals import interface, perplexity
from drope_jax.evals.metric import NATS, Metric
from drope_jax.evals.task import Order

HITS = Metric(
  name="hit_loss",
  title="loss on recurring tokens",
  topic="Recall in natural text",
  unit=NATS,
  higher_is_better=False,
  plots=("distance",),
)
NEAR_HITS = dataclasses.replace(
  HITS,
  name="near_hit_loss",
  title=f"{HITS.title}, last seen within the trained context",
  plots=("table",),
)
FAR_HITS = dataclasses.replace(
  NEAR_HITS,
  name="far_hit_loss",
  title=f"{HITS.title}, last seen beyond the trained context",
)
_AFTER = "loss on tokens after a pair of tokens last seen"
NEAR = dataclasses.replace(
  NEAR_HITS, name="near_loss", title=f"{_AFTER} within the trained context"
)
FAR = dataclasses.replace(
  NEAR_HITS, name="far_loss", title=f"{_AFTER} beyond the trained context"
)
NEW = dataclasses.replace(
  NEAR_HITS,
  name="new_loss",
  title="loss on tokens after a pair of tokens that is new in the text",
)

_BUCKETS_OF_A_DOUBLING = 2


@dataclasses.dataclass(frozen=True)
class Recall:
  """Loss on runs of held-out text, by where a token's last pair stood."""

  name = "recall"

  @property
  def metrics(self) -> tuple[Metric, ...]:
    return HITS, NEAR_HITS, FAR_HITS, NEAR, FAR, NEW

  def draw(self, order: Order) -> Mapping[int, Sequence[Sequence[int]]]:
    """Returns the texts of `perplexity.Perplexity`."""
    return perplexity.Perplexity().draw(order)

  def evaluate(
    self,
    lm: interface.LM,
    samples: Sequence[Sequence[int]],
    condition: interface.Condition,
  ) -> list[interface.Result]:
    """Returns the mean loss of each kind of token, in texts of one length.

    What lies within the trained context is what a model sees that has only the
    last `lm.context_tokens` tokens. A text without a token of a kind is left
    out of that kind's outcomes, and a kind without a token has no result. Which
    token is of which kind depends on the texts alone, so that outcomes are
    paired over models and methods of one length.

    "hit_loss" has a series by distance in tokens, with two points a doubling.
    """
    losses_BS = np.stack(perplexity.losses(lm, samples, condition.logit_scale))
    length = len(samples[0])
    found = [last_pairs(np.asarray(ids)) for ids in samples]
    # Prediction i is of token i + 1.
    distance_BS, hit_BS = (np.stack(x)[:, 1:] for x in zip(*found, strict=True))
    near_BS = (distance_BS > 0) & (distance_BS < lm.context_tokens)
    far_BS = distance_BS >= lm.context_tokens
    new_BS = distance_BS == 0
    new_BS[:, 0] = False  # Token 1 has no pair before it.
    results = []
    for metric, chosen_BS in (
      (HITS, hit_BS),
      (NEAR_HITS, hit_BS & near_BS),
      (FAR_HITS, hit_BS & far_BS),
      (NEAR, near_BS),
      (FAR, far_BS),
      (NEW, new_BS),
    ):
      mean_B = [
        float(losses_S[chosen_S].mean())
        for losses_S, chosen_S in zip(losses_BS, chosen_BS, strict=True)
        if chosen_S.any()
      ]
      series = None
      if metric is HITS:
        series = _by_distance(
          distance_BS[hit_BS], losses_BS[hit_BS], lm.context_tokens
        )
      if mean_B:
        results.append(
          perplexity.result(
            self.name, metric, lm, length, mean_B, condition, series
          )
        )
    return results


def last_pairs(ids_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns where the pair of tokens before each token last stood.

  Args:
    ids_S: a text.

  Returns:
    distance_S, tokens from each token back to the one that followed the same
    pair the last time (0 where the pair is new, or there is none); and hit_S,
    whether that one is the same token.
  """
  size = len(ids_S)
  distance_S, hit_S = np.zeros(size, int), np.zeros(size, bool)
  _, code = np.unique(
    np.stack([ids_S[:-2], ids_S[1:-1]]), axis=1, return_inverse=True
  )
  # Stable, so that the places of a pair stay in the order of the text.
  place = np.argsort(code, kind="stable")
  same = code[place[1:]] == code[place[:-1]]
  token, before = place[1:][same] + 2, place[:-1][same] + 2
  distance_S[token] = token - before
  hit_S[token] = ids_S[token] == ids_S[before]
  return distance_S, hit_S


def _by_distance(
  distance: np.ndarray, loss: np.ndarray, context_tokens: int
) -> tuple[tuple[int, float], ...]:
  """Returns (mean distance, mean loss) by half octaves of the context."""
  octave = np.floor(_BUCKETS_OF_A_DOUBLING * np.log2(distance / context_tokens))
  parts = [octave == value for value in np.unique(octave)]
  return tuple(
    (round(float(distance[part].mean())), float(loss[part].mean()))
    for part in parts
  )
