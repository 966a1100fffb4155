"""Two scores on the same samples: how far apart they are, in one interval.

Two intervals that overlap say nothing: what makes a sample hard is in both.
"""

from typing import NamedTuple

import numpy as np

from drope_jax.analysis import runs
from drope_jax.evals import intervals


class Difference(NamedTuple):
  """One score less another, with its 95% interval.

  Attributes:
    value: in the scores' unit.
    low, high: None where the samples are too few.
    count: of samples.
  """

  value: float
  low: float | None
  high: float | None
  count: int

  @property
  def verdict(self) -> str:
    """Where more is better: "ahead", "behind" or "not told apart"."""
    if self.low is not None and self.low > 0:
      return "ahead"
    if self.high is not None and self.high < 0:
      return "behind"
    return "not told apart"


def difference(first: runs.Score, second: runs.Score) -> Difference | None:
  """Returns first - second over the samples of both; None if there are none.

  Samples of one seed are the same for all models and methods. Where a score is
  of several runs on them, their mean counts.
  """
  pairs = [
    (own, other)
    for seed in first.outcomes
    if seed in second.outcomes
    and len(own := first.outcomes[seed]) == len(other := second.outcomes[seed])
  ]
  if not pairs:
    return None
  x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
  if np.isin([x, y], (0, 1)).all():
    low, high = intervals.paired_shares(x, y)
  else:
    low, high = intervals.bootstrap(x - y) or (None, None)
  return Difference(float(np.mean(x - y)), low, high, len(x))
