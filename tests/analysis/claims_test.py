import pytest

from drope_jax.analysis import claims, runs


def _score(value, margin=0.05):
  return runs.Score(value, value - margin, value + margin, 1)


def _cell(task, metric, model="full", method="model", factor=1.0, fitted=False):
  return runs.Cell(task, metric, model, method, factor, fitted)


def _verdict(scores):
  (verdict,) = claims.verdicts(scores, "base", "full")
  return verdict.verdict


@pytest.mark.parametrize(
  ("after", "verdict"), [(2.03, "shown"), (1.9, "shown"), (2.05, "not shown")]
)
def test_loss_is_recovered_within_two_percent(after, verdict):
  scores = {
    _cell("perplexity", "loss", "base"): _score(2.0),
    _cell("perplexity", "loss"): _score(after),
  }
  assert _verdict(scores) == verdict


@pytest.mark.parametrize(
  ("far", "verdict"), [(1.8, "shown"), (2.1, "not shown")]
)
def test_loss_is_flat_if_the_end_of_long_texts_is_no_worse(far, verdict):
  scores = {
    _cell("perplexity", "tail_loss"): _score(2.0),
    _cell("perplexity", "tail_loss", factor=8.0): _score(9.0),
    _cell("perplexity", "tail_loss", factor=8.0, fitted=True): _score(far),
  }
  assert _verdict(scores) == verdict


@pytest.mark.parametrize(
  ("own", "rival", "verdict"),
  [(0.9, 0.7, "shown"), (0.9, 0.82, "unclear"), (0.7, 0.9, "not shown")],
)
def test_retrieval_is_ahead_only_beyond_the_best_rivals_interval(
  own, rival, verdict
):
  scores = {
    _cell("multi_key", "accuracy", factor=4.0, fitted=True): _score(own),
    _cell("multi_key", "accuracy", "base", "pi", 4.0, True): _score(0.0),
    _cell("multi_key", "accuracy", "base", "yarn", 4.0, True): _score(rival),
  }
  assert _verdict(scores) == verdict


def test_a_fitted_scale_is_never_set_against_none():
  fitted = {
    _cell("multi_key", "accuracy", factor=4.0, fitted=True): _score(1.0)
  }
  rival = {_cell("multi_key", "accuracy", "base", "yarn", 4.0): _score(0.5)}
  assert claims.verdicts(fitted | rival, "base", "full") == []
  plain = {_cell("multi_key", "accuracy", factor=4.0): _score(0.2)}
  assert _verdict(fitted | plain | rival) == "not shown"


def test_without_the_factor_four_the_longest_is_compared():
  scores = {
    _cell("passkey", "accuracy", model, "model", factor, True): _score(value)
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
      scores[cell] = _score(own * fitted)
      scores[cell._replace(model="base")] = _score(0.0)
  return claims.verdicts(scores, "base", "full")[0]


def test_it_reads_on_as_far_as_its_interval_leaves_ropes():
  shown = _beyond({2.0: 0.5, 4.0: 0.3, 8.0: 0.08})
  assert shown.verdict == "shown" and "up to 4 times" in shown.claim
  assert "fitted" in shown.evidence and "30%" in shown.evidence
  missed = _beyond({2.0: 0.04, 4.0: 0.0})
  assert missed.verdict == "not shown" and "at 2×" in missed.evidence
