"""The difference of two scores on the same samples, with its interval.

Overlapping intervals of the scores themselves decide nothing, because a hard
sample affects both.
"""

import dataclasses

import numpy as np

from drope_jax.analysis import runs
from drope_jax.evals import intervals


@dataclasses.dataclass(frozen=True)
class Difference:
  """One score minus another, with its 95% interval.

  Attributes:
    value: in the scores' unit.
    low, high: the interval; None if there are too few samples, one is NaN, or
      shares all differ by as much.
    count: number of samples.
  """

  value: float
  low: float | None
  high: float | None
  count: int

  @property
  def verdict(self) -> str:
    """If more is better: "ahead", "behind" or "not told apart"."""
    if self.low is not None and self.low > 0:
      return "ahead"
    if self.high is not None and self.high < 0:
      return "behind"
    return "not told apart"


def difference(first: runs.Score, second: runs.Score) -> Difference | None:
  """Returns first - second over their common samples; None if there are none.

  Samples of one seed are the same for all models and methods. The score of
  several runs on the same samples is their mean. Some metrics are of all
  samples together, and have none.
  """
  pairs = [
    (own, other)
    for seed in first.outcomes
    if (own := first.outcomes[seed])
    and len(own) == len(other := second.outcomes.get(seed, ()))
  ]
  if not pairs:
    return None
  x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
  begins_text = [np.arange(len(own)) % first.together == 0 for own, _ in pairs]
  groups = np.cumsum(np.concatenate(begins_text)) - 1
  if np.isin([x, y], (0, 1)).all():
    low, high = intervals.paired_shares(x, y, groups)
  else:
    of_text = np.bincount(groups, x - y) / np.bincount(groups)
    low, high = intervals.bootstrap(of_text) or (None, None)
    are_shares = min(*x, *y) >= 0 and max(*x, *y) <= 1
    if are_shares and np.ptp(of_text) < 1e-9:
      low = high = None  # Resamples of equal values are equal: no evidence.
  return Difference(float(np.mean(x - y)), low, high, len(x))
