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


def test_a_bootstrap_of_few_holds_the_mean_as_often_as_it_says():
  rng = np.random.default_rng(0)
  ends = [intervals.bootstrap(rng.normal(3, 2, 8)) for _ in range(400)]
  held = np.mean([low <= 3 <= high for low, high in ends])
  # Of 400 at 0.95, 0.022 is two standard deviations; 0.89 without expansion.
  assert held == pytest.approx(0.95, abs=0.022)


def test_a_bootstrap_of_many_is_the_normal_interval():
  values = np.random.default_rng(0).normal(3, 2, 2000)
  low, high = intervals.bootstrap(values)
  reach = 1.96 * values.std(ddof=1) / math.sqrt(2000)
  # Percentiles of 10,000 resamples are within some hundredths of a reach.
  assert low == pytest.approx(values.mean() - reach, abs=reach / 20)
  assert high == pytest.approx(values.mean() + reach, abs=reach / 20)


def test_a_bootstrap_lies_within_its_values_and_is_the_same_each_time():
  losses = [0.01] * 7 + [5.0]
  low, high = intervals.bootstrap(losses)
  assert 0.01 <= low < high <= 5.0
  assert intervals.bootstrap(losses) == (low, high)
  assert intervals.bootstrap([2.0] * 8) == (2.0, 2.0)


def test_too_few_values_or_nan_have_no_interval():
  assert intervals.bootstrap([1.0] * 7) is None
  assert intervals.bootstrap([]) is None
  assert intervals.bootstrap([1.0] * 8 + [math.nan]) is None


def _pairs(both, first, second, neither):
  x = [1] * (both + first) + [0] * (second + neither)
  return x, [1] * both + [0] * first + [1] * second + [0] * neither


@pytest.mark.parametrize(
  "cells, low, high",
  [
    # Altman et al. 2000, "Statistics with confidence", p. 52.
    ((14, 5, 0, 22), 0.011, 0.226),
    # No pair differs: as wide as the two shares allow.
    ((0, 0, 0, 30), -0.1135, 0.1135),
  ],
)
def test_paired_shares_match_published_values(cells, low, high):
  x, y = _pairs(*cells)
  got = intervals.paired_shares(x, y)
  np.testing.assert_allclose(got, (low, high), atol=5e-4)
  swapped = intervals.paired_shares(y, x)
  np.testing.assert_allclose(swapped, (-got[1], -got[0]), atol=1e-12)


def test_paired_shares_hold_the_difference_as_often_as_they_say():
  rng = np.random.default_rng(0)
  held = []
  for _ in range(1000):
    # Easy and hard questions, so that outcomes are paired: 0.6 and 0.45.
    easy = rng.random(64) < 0.5
    x = rng.random(64) < np.where(easy, 0.9, 0.3)
    y = rng.random(64) < np.where(easy, 0.8, 0.1)
    low, high = intervals.paired_shares(x, y)
    held.append(low <= 0.15 <= high)
  # Of 1,000 at 0.95, 0.014 is two standard deviations.
  assert np.mean(held) == pytest.approx(0.95, abs=0.014)


def test_values_of_groups_count_for_less_if_they_vary_together():
  groups = [0, 0, 1, 1, 2, 2, 3, 3]
  alike = [1, 1, 0, 0, 1, 1, 0, 0]
  # 4 / 3 * 4 squared sums of 1, over 8 squares of 1/4: a design effect of 8/3.
  assert intervals.effective_count(alike, groups) == pytest.approx(3)
  assert intervals.effective_count([1, 0] * 4, groups) == 8
  assert intervals.effective_count([1] * 8, groups) == 4
  assert intervals.effective_count(alike, range(8)) == 8
  assert intervals.effective_count(alike, [0] * 8) == 1


def test_paired_shares_of_groups_may_all_be_right():
  rng = np.random.default_rng(0)
  groups, right = np.arange(20) // 4, np.ones(20, bool)
  for _ in range(300):  # A scaled count is above their number for some.
    other = rng.random(20) < 0.7
    low, high = intervals.paired_shares(right, other, groups)
    assert low <= 1 - other.mean() <= high


def test_intervals_of_groups_hold_as_often_as_they_say():
  rng = np.random.default_rng(0)
  groups = np.arange(160) // 4
  shares, differences, naive = [], [], []
  for _ in range(1000):
    # Easy and hard texts with four questions each: 0.6 and 0.45.
    easy = np.repeat(rng.random(40) < 0.5, 4)
    x = rng.random(160) < np.where(easy, 0.9, 0.3)
    y = rng.random(160) < np.where(easy, 0.8, 0.1)
    count = intervals.effective_count(x, groups)
    low, high = intervals.wilson(x.mean() * count, count)
    shares.append(low <= 0.6 <= high)
    low, high = intervals.wilson(x.sum(), 160)
    naive.append(low <= 0.6 <= high)
    low, high = intervals.paired_shares(x, y, groups)
    differences.append(low <= 0.15 <= high)
  # As above; the estimate of the design effect takes a little.
  assert np.mean(shares) == pytest.approx(0.95, abs=0.02)
  assert np.mean(differences) == pytest.approx(0.95, abs=0.02)
  assert np.mean(naive) < 0.88, "groups have no effect here"


def test_pairing_tells_apart_what_two_intervals_do_not():
  x, y = _pairs(30, 8, 0, 12)
  assert intervals.wilson(sum(x), 50)[0] < intervals.wilson(sum(y), 50)[1]
  assert intervals.paired_shares(x, y)[0] > 0


@pytest.mark.parametrize("pair", [([1], [1, 0]), ([], [])])
def test_outcomes_that_are_not_paired_are_refused(pair):
  with pytest.raises(ValueError, match="of the same samples, at least one"):
    intervals.paired_shares(*pair)


def test_students_interval_of_three_is_the_published_one():
  low, high = intervals.student([1.0, 2.0, 3.0])
  # t of 2 degrees of freedom at 97.5%, 4.3027, times 1 / sqrt(3).
  assert (low, high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
  assert intervals.student([1.0]) is None
  assert intervals.student([1.0, math.nan]) is None
