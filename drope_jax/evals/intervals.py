"""95% confidence intervals of proportions and means."""

from collections.abc import Sequence
import math
import statistics

import numpy as np

_CONFIDENCE = 0.95
_NORMAL_QUANTILE = statistics.NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)


def wilson(successes: float, count: int) -> tuple[float, float]:
  """Returns Wilson's interval of a proportion; never empty at 0 or 1.

  For partial credits in [0, 1], pass their sum: no such credit varies more
  than a success of equal mean, so the interval is then conservative.

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
  # Rounding may step over an end that is exact at 0 and at 1.
  return max(0.0, (middle - reach) / widen), min(1.0, (middle + reach) / widen)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
  """Returns Student's t interval of the mean; (nan, nan) for one value.

  Raises:
    ValueError: there is no value.
  """
  if len(values) == 0:
    raise ValueError("mean_interval needs values, got none. Pass a document.")
  if len(values) == 1:
    return math.nan, math.nan
  mean, error = np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5
  reach = _student_quantile(len(values) - 1) * error
  return float(mean - reach), float(mean + reach)


def _student_quantile(degrees: int) -> float:
  """Returns t with P(|T| < t) = 95%.

  With t = sqrt(degrees) tan(a), the density of `a` is cos(a)^(degrees - 1),
  which is bounded, so that plain quadrature serves every degree.
  """
  a = np.linspace(0, np.pi / 2, 200_001)
  density = np.cos(a) ** (degrees - 1)
  below = np.cumsum((density[1:] + density[:-1]) / 2)
  a = np.interp(_CONFIDENCE, np.append(0, below) / below[-1], a)
  return float(np.sqrt(degrees) * np.tan(a))
