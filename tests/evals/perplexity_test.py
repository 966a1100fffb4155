import numpy as np
import pytest

from drope_jax.evals import interface, perplexity

CONDITION = interface.Condition("tiny", "yarn", logit_scale=2.0)


def _evaluate(lm, documents, factor):
  results = perplexity.evaluate(lm, documents, factor, CONDITION)
  return {result.metric: result for result in results}


def test_a_uniform_model_loses_log_vocabulary_everywhere(fake_lm):
  lm = fake_lm(loss=lambda position, scale: np.log(50) + 0 * position)
  for result in _evaluate(lm, [list(range(512))] * 3, 8).values():
    assert result.value == pytest.approx(np.log(50), rel=1e-6)
    assert result.low == pytest.approx(result.high, rel=1e-6)
    assert result.count == 3 and result.factor == 8


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_means_and_series_are_those_of_the_positions(fake_lm, factor):
  # Token i loses i nats, so every mean is a mean of positions.
  lm = fake_lm(loss=lambda position, scale: position)
  got = _evaluate(lm, [list(range(600))] * 2, factor)
  length = 64 * factor
  assert got["loss"].value == np.arange(1, length).mean()
  assert got["tail_loss"].value == np.arange(max(length - 64, 1), length).mean()
  assert got["loss"].mean_tokens == length
  series = dict(got["loss"].series)
  assert list(series) == list(range(4, length, 8))
  assert series[4] == np.arange(1, 8).mean()
  assert all(series[m] == m - 0.5 for m in list(series)[1:])
  assert got["tail_loss"].series is None


def test_intervals_are_over_documents(fake_lm):
  class Lm(fake_lm):
    def with_logit_scale(self, scale):
      return self

    def loglikelihood(self, sequences):
      return [-np.full(len(s) - 1, s[0], np.float32) for s in sequences]

  result = _evaluate(Lm(), [[d] * 64 for d in (1, 2, 3)], 1)["loss"]
  # t(2 degrees) = 4.3027 and a standard error of 1 / sqrt(3).
  assert result.value == 2
  assert result.high - 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)


def test_the_scale_of_the_condition_reaches_the_model(fake_lm):
  lm = fake_lm(loss=lambda position, scale: scale + 0 * position)
  assert _evaluate(lm, [[0] * 64] * 2, 1)["loss"].value == 2.0
  assert perplexity.mean_loss(lm, [[0] * 64], 1, 0.5) == 0.5


def test_short_documents_are_refused(fake_lm):
  lm = fake_lm(loss=lambda position, scale: position)
  for documents in ([[0] * 128, [0] * 127], []):
    with pytest.raises(ValueError, match="at least 128 tokens"):
      perplexity.evaluate(lm, documents, 2, CONDITION)


def test_excerpts_are_disjoint_runs_within_documents():
  documents = [list(range(1000 * d, 1000 * d + 90 + d)) for d in range(4)]
  runs = perplexity.excerpts(documents, 30, 12, seed=0)
  assert all(run == list(range(run[0], run[0] + 30)) for run in runs)
  assert len({i for run in runs for i in run}) == 12 * 30
  assert {i for run in runs for i in run} < {i for d in documents for i in d}
  again = perplexity.excerpts(documents, 30, 12, seed=1)
  assert runs != again and sorted(runs) == sorted(again)
  assert perplexity.excerpts(documents, 30, 5, seed=0) == runs[:5]
  with pytest.raises(ValueError, match="13 excerpts of 30 tokens.* hold 12"):
    perplexity.excerpts(documents, 30, 13, seed=0)
