import pytest

from drope_jax.analysis import paired, runs


def _score(outcomes, together=1):
  return runs.Score(0.0, None, None, len(outcomes), outcomes, together)


def test_common_seeds_are_pooled_and_others_left_out():
  first = _score({0: [3.0] * 6, 1: [5.0] * 6, 2: [9.0] * 6})
  second = _score({1: [1.0] * 6, 0: [2.0] * 6})
  found = paired.difference(first, second)
  assert (found.value, found.count) == (pytest.approx(2.5), 12)
  assert 1 <= found.low < 2.5 < found.high <= 4
  assert found.verdict == "ahead"
  assert paired.difference(second, first).verdict == "behind"


def test_the_difficulty_of_samples_cancels():
  first = _score({0: [1.0, 9.0, 4.0, 2.0, 7.0, 3.0, 8.0, 5.0]})
  second = _score({0: [x + 0.5 for x in first.outcomes[0]]})
  found = paired.difference(first, second)
  assert (found.value, found.low, found.high) == (-0.5, -0.5, -0.5)


def test_few_losses_have_a_difference_without_an_interval():
  found = paired.difference(_score({0: [2.5] * 7}), _score({0: [1.5] * 7}))
  assert found == paired.Difference(1.0, None, None, 7)
  assert found.verdict == "not told apart"


def test_shares_have_an_interval_if_all_outcomes_agree():
  found = paired.difference(_score({0: [1.0] * 4}), _score({0: [1.0] * 4}))
  assert found.low < 0 < found.high


def test_shares_over_trainings_that_all_differ_by_as_much_have_no_interval():
  first, second = [1 / 3, 1.0] * 50, [0.0, 2 / 3] * 50
  found = paired.difference(_score({0: first[1:]}), _score({0: second[1:]}))
  assert found == paired.Difference(pytest.approx(1 / 3), None, None, 99)
  assert found.verdict == "not told apart"


def test_a_metric_of_all_samples_together_has_no_difference():
  assert paired.difference(_score({0: []}), _score({0: []})) is None


@pytest.mark.parametrize("other", [{1: [1.0]}, {0: [1.0, 0.0]}, {}])
def test_samples_that_differ_are_not_paired(other):
  assert paired.difference(_score({0: [1.0]}), _score(other)) is None


@pytest.mark.parametrize("wrong", [0.0, 0.25])
def test_a_difference_counts_that_samples_are_about_the_same_text(wrong):
  right = [1.0, 1.0, 1.0, 1.0, wrong, wrong, wrong, wrong] * 4
  outcomes = {0: right, 1: right[:-2]}  # Of the last text two are missing.
  none = {seed: [0.0] * len(own) for seed, own in outcomes.items()}
  alone = paired.difference(_score(outcomes), _score(none))
  texts = paired.difference(_score(outcomes, 4), _score(none, 4))
  assert texts.value == alone.value and texts.count == alone.count == 62
  assert texts.low < alone.low < alone.high < texts.high
