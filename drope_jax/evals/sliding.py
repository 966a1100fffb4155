"""Loss in windows that slide over a text: the same tokens at every length.

`perplexity` scores a text as a whole, and compares lengths on its end alone.
Here all tokens of the excerpts count: each is scored once, and after the first
window with at least half a window of text before it.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from drope_jax.evals import interface, perplexity
from drope_jax.evals.cropped import Cropped
from drope_jax.evals.metric import Metric
from drope_jax.evals.task import Order

LOSS = dataclasses.replace(
  perplexity.TAIL_LOSS,
  name="sliding_loss",
  title="loss in sliding windows",
  plots=("length", "table"),
)


@dataclasses.dataclass(frozen=True)
class Excerpt:
  """A text to be read in windows.

  Attributes:
    ids: of the text.
    window_tokens: the tested length.
  """

  ids: tuple[int, ...]
  window_tokens: int


@dataclasses.dataclass(frozen=True)
class SlidingPerplexity:
  """Loss on excerpts of the longest length, read in windows of each length."""

  name = "sliding_perplexity"

  @property
  def metrics(self) -> tuple[Metric, ...]:
    return (LOSS,)

  def draw(self, order: Order) -> Mapping[int, Sequence[Excerpt]]:
    """Returns the longest texts of `perplexity.Perplexity` for each length."""
    longest = perplexity.Perplexity().draw(order)[max(order.lengths)]
    return {
      length: [Excerpt(tuple(ids), length) for ids in longest]
      for length in order.lengths
    }

  def evaluate(
    self,
    lm: interface.LM,
    samples: Sequence[Excerpt],
    condition: interface.Condition,
  ) -> list[interface.Result]:
    """Returns the mean loss over all tokens from each text's second."""
    window = samples[0].window_tokens
    losses_BS = np.stack(
      perplexity.losses(
        Cropped(lm, window),
        [sample.ids for sample in samples],
        condition.logit_scale,
      )
    )
    return [
      perplexity.result(
        self.name, LOSS, lm, window, losses_BS.mean(1), condition
      )
    ]
