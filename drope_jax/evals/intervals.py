"""95% confidence intervals of proportions and means, and of differences."""

from collections.abc import Sequence
import math
import statistics

import numpy as np
from scipy import special

MIN_VALUES = 8
"""Fewer values get no interval of their mean."""

_CONFIDENCE = 0.95
_NORMAL_QUANTILE = statistics.NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
_RESAMPLES = 10_000
_HELD_VALUES = 10**7
"""Of the resamples at a time, which limits memory."""


def wilson(successes: float, count: float) -> tuple[float, float]:
  """Returns Wilson's interval of a proportion; it is never empty at 0 or 1.

  For partial credits in [0, 1], pass their sum. The interval is then wider than
  needed, since partial credits vary at most as much as successes of equal mean.

  Raises:
    ValueError: unless 0 <= successes <= count and count > 0.

  Source: Wilson 1927, without continuity correction.
  """
  if not (count > 0 and 0 <= successes <= count):
    raise ValueError(
      "wilson needs 0 <= successes <= count and count > 0, got "
      f"{successes} of {count}. Evaluate at least one sample."
    )
  share, z = successes / count, _NORMAL_QUANTILE
  middle = share + z**2 / (2 * count)
  reach = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
  widen = 1 + z**2 / count
  # The ends are exact at 0 and 1, and rounding may pass them.
  return max(0.0, (middle - reach) / widen), min(1.0, (middle + reach) / widen)


def bootstrap(values: Sequence[float]) -> tuple[float, float] | None:
  """Returns the bootstrap interval of a mean; None for too few values, or NaN.

  The ends are percentiles of the means of resamples, and so lie within the
  values: the interval of a mean loss has no loss below zero. For the difference
  of two methods, pass the difference on each sample: what makes a sample hard
  for both then cancels.

  A few values vary less than their population, so the percentiles are further
  out than 2.5 and 97.5 (Hesterberg 2015, the expanded percentile interval).
  Below `MIN_VALUES` they would be beyond what resamples can show, and there is
  no interval.

  Args:
    values: independent ones, such as means over disjoint excerpts.

  Source: Hesterberg 2015, "What teachers should know about the bootstrap",
    section 5.3, of Efron's bootstrap (1979).
  """
  values = np.asarray(values, np.float64)
  n = len(values)
  if n < MIN_VALUES or np.isnan(values).any():
    return None
  rng = np.random.default_rng(0)
  rows = max(_HELD_VALUES // n, 1)
  means = np.concatenate(
    [
      rng.choice(values, (min(rows, _RESAMPLES - start), n)).mean(1)
      for start in range(0, _RESAMPLES, rows)
    ]
  )
  student = special.stdtrit(n - 1, (1 + _CONFIDENCE) / 2)
  tail = special.ndtr(-math.sqrt(n / (n - 1)) * student)
  low, high = np.quantile(means, [tail, 1 - tail])
  return float(low), float(high)


def student(values: Sequence[float]) -> tuple[float, float] | None:
  """Returns Student's interval of a mean; None for one value, or NaN.

  It takes a few values, such as those of three seeds, to be normal.
  """
  values = np.asarray(values, np.float64)
  n = len(values)
  if n < 2 or np.isnan(values).any():
    return None
  reach = special.stdtrit(n - 1, (1 + _CONFIDENCE) / 2) * values.std(ddof=1)
  reach /= math.sqrt(n)
  return float(values.mean() - reach), float(values.mean() + reach)


def effective_count(values: Sequence[float], groups: Sequence[int]) -> float:
  """Returns how many independent values would say as much about the mean.

  Values of a group, such as answers about one text, vary together. Their number
  is divided by how much that widens the variance of the mean, if it does. If
  all values are the same, it is the number of groups.

  Args:
    values: such as shares.
    groups: an id of each value's group, from 0.

  Source: Rao and Scott 1992, "A simple method for the analysis of clustered
    binary data", its design effect.
  """
  rest = np.asarray(values, np.float64) - np.mean(values)
  n, m = len(rest), len(np.unique(groups))
  alone = np.square(rest).sum()
  if m == n or m == 1 or not alone:
    return float(m)
  together = m / (m - 1) * np.square(np.bincount(groups, rest)).sum()
  return n / max(together / alone, 1.0)


def paired_shares(
  first: Sequence[bool],
  second: Sequence[bool],
  groups: Sequence[int] | None = None,
) -> tuple[float, float]:
  """Returns the interval of share(first) - share(second), of paired outcomes.

  Unlike a bootstrap it is never empty, even where all outcomes agree.

  Args:
    first, second: whether each sample succeeded; the same samples, in order.
    groups: as of `effective_count`; None: all samples are independent.

  Raises:
    ValueError: they differ in number, or there are none.

  Source: Newcombe 1998, "Improved confidence intervals for the difference
    between binomial proportions based on paired data", method 10.
  """
  _require_pairs(first, second)
  x, y = np.asarray(first, bool), np.asarray(second, bool)
  n = len(x)
  # Cells of the table: both, first alone, second alone, neither.
  a, b, c, d = (
    np.count_nonzero(cell) for cell in (x & y, x & ~y, ~x & y, ~x & ~y)
  )
  if groups is not None:
    scale = effective_count(x.astype(float) - y, groups) / n
    a, b, c, d, n = (scale * count for count in (a, b, c, d, n))
  product = (a + b) * (c + d) * (a + c) * (b + d)
  covariance = a * d - b * c
  if covariance > 0:  # Corrected for continuity, toward 0.
    covariance = max(covariance - n / 2, 0)
  phi = covariance / math.sqrt(product) if product else 0.0
  # A scaled sum can be above n by a rounding error.
  (low_x, high_x), (low_y, high_y) = (
    wilson(min(share, n), n) for share in (a + b, a + c)
  )
  share_x, share_y = (a + b) / n, (a + c) / n

  def reach(own, other):
    return math.sqrt(max(own**2 - 2 * phi * own * other + other**2, 0.0))

  difference = share_x - share_y
  return (
    difference - reach(share_x - low_x, high_y - share_y),
    difference + reach(high_x - share_x, share_y - low_y),
  )


def _require_pairs(first, second) -> None:
  if len(first) != len(second) or len(first) == 0:
    raise ValueError(
      "Paired outcomes are of the same samples, at least one, got "
      f"{len(first)} and {len(second)}. Evaluate both alike."
    )
