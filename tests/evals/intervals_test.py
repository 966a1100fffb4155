import math

import numpy as np
import pytest

from drope_jax.evals import intervals


@pytest.mark.parametrize(
  "successes, count, low, high",
  [
    # Published tables of Wilson's interval (Newcombe 1998, method 3: 81/263,
    # 15/148, 0/20, 1/29); 5/10 by the formula by hand.
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (5, 10, 0.2366, 0.7634),
    (0, 10, 0.0, 0.2775),
    (10, 10, 0.7225, 1.0),
  ],
)
def test_wilson_matches_published_values(successes, count, low, high):
  got = intervals.wilson(successes, count)
  np.testing.assert_allclose(got, (low, high), atol=5e-5)


def test_wilson_covers_the_mean_of_partial_credits():
  rng = np.random.default_rng(0)
  credits = rng.integers(0, 5, (2000, 30)) / 4  # mean 0.5
  ends = [intervals.wilson(row.sum(), 30) for row in credits]
  covered = np.mean([low <= 0.5 <= high for low, high in ends])
  assert covered >= 0.95
  assert np.mean([high - low for low, high in ends]) < 0.4


@pytest.mark.parametrize("successes, count", [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes, count):
  with pytest.raises(ValueError, match="needs 0 <= successes <= count"):
    intervals.wilson(successes, count)


@pytest.mark.parametrize(
  "degrees, quantile",
  # Any printed table of Student's t, two-sided 95%; the last is the normal's.
  [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (99999, 1.96)],
)
def test_mean_interval_matches_the_table_of_student(degrees, quantile):
  count = degrees + 1
  values = np.random.default_rng(degrees).normal(3.0, 2.0, count)
  low, high = intervals.mean_interval(values)
  error = values.std(ddof=1) / math.sqrt(count)
  np.testing.assert_allclose((high + low) / 2, values.mean(), rtol=1e-9)
  # The table has three decimals.
  np.testing.assert_allclose((high - low) / 2 / error, quantile, atol=6e-4)


def test_mean_interval_of_one_value_is_unknown():
  assert all(math.isnan(end) for end in intervals.mean_interval([2.0]))


def test_mean_interval_refuses_no_values():
  with pytest.raises(ValueError, match="got none"):
    intervals.mean_interval([])
