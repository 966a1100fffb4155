import numpy as np
import pytest

from drope_jax.analysis import claims, runs
from drope_jax.evals import intervals


def _answered(share, count=100, seed=0):
  """A score of `count` questions, of which the first are answered."""
  right = round(share * count)
  low, high = intervals.wilson(right, count)
  outcomes = [1.0] * right + [0.0] * (count - right)
  return runs.Score(share, low, high, 1, {seed: outcomes})


def _lost(value, spread=0.0, count=8):
  """A score of texts, hard and easy ones, and `spread` of its own."""
  noise = np.linspace(-1, 1, count)
  outcomes = value + 0.5 * noise + spread * np.roll(noise, count // 3)
  return runs.Score(value, value - 0.3, value + 0.3, 1, {0: outcomes.tolist()})


def _cell(task, metric, model="full", method="model", factor=1.0, fitted=False):
  return runs.Cell(task, metric, model, method, factor, fitted)


def _verdict(scores):
  (verdict,) = claims.verdicts(scores, "base", "full")
  return verdict.verdict


@pytest.mark.parametrize(
  ("after", "verdict"),
  [
    (_lost(2.03), "shown"),
    (_lost(1.9), "shown"),
    (_lost(2.05), "not shown"),
    (_lost(2.03, spread=0.1), "unclear"),
    (_lost(2.05, spread=0.1), "unclear"),
    (_lost(2.5, count=7), "unclear"),
  ],
)
def test_loss_is_recovered_within_two_percent(after, verdict):
  count = len(after.outcomes[0])
  scores = {
    _cell("perplexity", "loss", "base"): _lost(2.0, count=count),
    _cell("perplexity", "loss"): after,
  }
  assert _verdict(scores) == verdict
  (found,) = claims.verdicts(scores, "base", "full")
  assert f"{count} texts" in found.evidence


@pytest.mark.parametrize(
  ("far", "verdict"), [(1.8, "shown"), (2.1, "not shown")]
)
def test_loss_is_flat_if_the_end_of_long_texts_is_no_worse(far, verdict):
  scores = {
    _cell("perplexity", "tail_loss"): _lost(2.0),
    _cell("perplexity", "tail_loss", factor=8.0): _lost(9.0),
    _cell("perplexity", "tail_loss", factor=8.0, fitted=True): _lost(far),
  }
  assert _verdict(scores) == verdict


@pytest.mark.parametrize(
  ("own", "rival", "verdict", "said"),
  [
    (0.9, 0.7, "shown", "ahead with 100 questions, by +20 points"),
    (0.9, 0.89, "unclear", "not told apart with 100 questions, by +1 points"),
    (0.7, 0.9, "not shown", "behind with 100 questions, by -20 points"),
  ],
)
def test_retrieval_is_ahead_where_the_paired_difference_is(
  own, rival, verdict, said
):
  scores = {
    _cell("multi_key", "accuracy", factor=4.0, fitted=True): _answered(own),
    _cell("multi_key", "accuracy", "base", "pi", 4.0, True): _answered(0.0),
    _cell("multi_key", "accuracy", "base", "yarn", 4.0, True): _answered(rival),
  }
  (found,) = claims.verdicts(scores, "base", "full")
  assert found.verdict == verdict and said in found.evidence


def test_intervals_that_overlap_may_be_told_apart():
  scores = {
    _cell("multi_key", "accuracy", factor=4.0): _answered(0.9),
    _cell("multi_key", "accuracy", "base", "yarn", 4.0): _answered(0.82),
  }
  own, rival = scores.values()
  assert own.low < rival.high
  assert _verdict(scores) == "shown"


def test_it_must_be_told_apart_from_every_rival():
  own, pi, yarn = (_answered(share) for share in (0.5, 0.38, 0.4))
  # PI answers others, so that it cannot be told apart though it answers fewer.
  pi.outcomes[0].reverse()
  scores = {
    _cell("multi_key", "accuracy", factor=4.0): own,
    _cell("multi_key", "accuracy", "base", "pi", 4.0): pi,
    _cell("multi_key", "accuracy", "base", "yarn", 4.0): yarn,
  }
  verdict = _verdict(scores)
  del scores[_cell("multi_key", "accuracy", "base", "pi", 4.0)]
  assert (verdict, _verdict(scores)) == ("unclear", "shown")


def test_other_questions_are_not_compared():
  scores = {
    _cell("multi_key", "accuracy", factor=4.0): _answered(0.9),
    _cell("multi_key", "accuracy", "base", "yarn", 4.0): _answered(0, seed=1),
  }
  (found,) = claims.verdicts(scores, "base", "full")
  assert found.verdict == "unclear" and "no questions" in found.evidence


def test_a_fitted_scale_is_never_set_against_none():
  fitted = {
    _cell("multi_key", "accuracy", factor=4.0, fitted=True): _answered(1.0)
  }
  rival = {_cell("multi_key", "accuracy", "base", "yarn", 4.0): _answered(0.5)}
  assert claims.verdicts(fitted | rival, "base", "full") == []
  plain = {_cell("multi_key", "accuracy", factor=4.0): _answered(0.2)}
  assert _verdict(fitted | plain | rival) == "not shown"


def test_without_the_factor_four_the_longest_is_compared():
  scores = {
    _cell("passkey", "accuracy", model, "model", factor, True): _answered(value)
    for model, value in (("full", 0.9), ("base", 0.1))
    for factor in (1.0, 2.0)
  }
  beyond, ahead = claims.verdicts(scores, "base", "full")
  assert "at 2 times" in ahead.claim and "RoPE" in ahead.evidence
  assert beyond.verdict == "shown" and "up to 2 times" in beyond.claim


def _beyond(own_by_factor):
  scores = {}
  for factor, own in own_by_factor.items():
    for fitted in (False, True):
      cell = _cell("multi_key", "accuracy", "full", "model", factor, fitted)
      scores[cell] = _answered(own * fitted)
      scores[cell._replace(model="base")] = _answered(0.0)
  return claims.verdicts(scores, "base", "full")[0]


def test_it_reads_on_as_far_as_it_is_ahead_of_rope():
  shown = _beyond({2.0: 0.5, 4.0: 0.3, 8.0: 0.02})
  assert shown.verdict == "shown" and "up to 4 times" in shown.claim
  assert "fitted" in shown.evidence and "30%" in shown.evidence
  missed = _beyond({2.0: 0.02, 4.0: 0.0})
  assert missed.verdict == "unclear" and "at 2×" in missed.evidence
  assert "not told apart with 100 questions" in missed.evidence
