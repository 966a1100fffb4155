"""Loss on the second reading of a passage, by how far back the first one was.

A model that still has the first reading before it predicts the second almost
without loss. One that does not, such as a cropped one, reads the passage as if
it were new.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from drope_jax.evals import interface, perplexity
from drope_jax.evals.metric import NATS, Metric
from drope_jax.evals.task import Order

LOSS = Metric(
  name="second_reading_loss",
  title="loss on the second reading of a passage",
  topic="Recall in natural text",
  unit=NATS,
  higher_is_better=False,
)

_SHARE = 4
"""The trained context is this many passages long."""


@dataclasses.dataclass(frozen=True)
class Reading:
  """A passage, other text, and the passage again.

  Attributes:
    ids: of all.
    passage_tokens: of the passage.
  """

  ids: tuple[int, ...]
  passage_tokens: int


@dataclasses.dataclass(frozen=True)
class SecondReading:
  """Held-out text that begins and ends with the same passage.

  The passage is a quarter of the trained context, so that from one reading to
  the next there are three quarters of it or more. At every length the same
  passage follows the same text.
  """

  name = "second_reading"

  @property
  def metrics(self) -> tuple[Metric, ...]:
    return (LOSS,)

  def draw(self, order: Order) -> Mapping[int, Sequence[Reading]]:
    """Returns, for each length, the start and the end of the same excerpts.

    Raises:
      ValueError: the documents are too short, or the context or a length is.
    """
    passage = (order.context_tokens - len(order.prefix)) // _SHARE
    if passage < 2 or min(order.lengths) < order.context_tokens:
      raise ValueError(
        f"{self.name} needs a context of at least {2 * _SHARE} tokens, and "
        f"lengths of at least the context, got {order.context_tokens} and "
        f"{min(order.lengths)}. Test longer ones."
      )
    longest = max(order.lengths) - len(order.prefix)
    found = perplexity.ordered_excerpts(order, longest - passage)
    return {
      length: [
        Reading(
          (
            *order.prefix,
            *(first := run[:passage]),
            *run[2 * passage + len(order.prefix) - length :],
            *first,
          ),
          passage,
        )
        for run in found
      ]
      for length in order.lengths
    }

  def evaluate(
    self,
    lm: interface.LM,
    samples: Sequence[Reading],
    condition: interface.Condition,
  ) -> list[interface.Result]:
    """Returns the mean loss over the passage where it is read again."""
    losses_BS = np.stack(
      perplexity.losses(
        lm, [sample.ids for sample in samples], condition.logit_scale
      )
    )
    mean_B = losses_BS[:, -samples[0].passage_tokens :].mean(1)
    return [
      perplexity.result(
        self.name, LOSS, lm, len(samples[0].ids), mean_B, condition
      )
    ]
