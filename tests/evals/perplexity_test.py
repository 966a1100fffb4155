import numpy as np
import pytest

from drope_jax.evals import interface, perplexity

CONDITION = interface.Condition("tiny", "yarn", logit_scale=2.0)


def _evaluate(lm, excerpts, length, prefix=()):
  sequences = perplexity.sequences(excerpts, length, prefix)
  results = perplexity.evaluate(lm, sequences, CONDITION)
  return {result.metric: result for result in results}


def test_a_uniform_model_loses_log_vocabulary_everywhere(fake_lm):
  lm = fake_lm(loss=lambda position, scale: np.log(50) + 0 * position)
  got = _evaluate(lm, [list(range(512))] * 8, 512)
  assert got.keys() == {"loss", "tail_loss", "bits_per_byte"}
  # The fake's tokenizer has no text for these tokens, which counts as a byte.
  per_byte = got.pop("bits_per_byte")
  assert per_byte.value == pytest.approx(63 * np.log2(50), rel=1e-6)
  for result in got.values():
    assert result.value == pytest.approx(np.log(50), rel=1e-6)
    assert result.low == pytest.approx(result.high, rel=1e-6)
    assert result.count == 8 and result.factor == 8


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_means_and_series_are_those_of_the_positions(fake_lm, factor):
  # Token i loses i nats, so every mean is a mean of positions.
  lm = fake_lm(loss=lambda position, scale: position)
  length = 64 * factor
  got = _evaluate(lm, [list(range(600))] * 2, length)
  assert got["loss"].value == np.arange(1, length).mean()
  assert got["tail_loss"].value == np.arange(length - 63, length).mean()
  assert got["loss"].mean_tokens == length
  series = dict(got["loss"].series)
  assert list(series) == list(range(4, length, 8))
  assert series[4] == np.arange(1, 8).mean()
  assert all(series[m] == m - 0.5 for m in list(series)[1:])
  assert got["tail_loss"].series is None


@pytest.mark.parametrize("prefix", [(), (7,)])
def test_the_tail_is_of_the_same_tokens_at_every_length(token_losses, prefix):
  excerpts = np.random.default_rng(0).integers(100, size=(9, 512)).tolist()
  tails = []
  for length in (64, 100, 512):
    got = _evaluate(token_losses, excerpts, length, prefix)
    tails.append(got["tail_loss"].outcomes)
    means = [np.mean(e[-(length - 1) :]) for e in excerpts]
    if prefix or length < 512:
      assert got["loss"].outcomes == pytest.approx(means)
  assert tails[0] == tails[1] == tails[2]
  assert tails[0] == pytest.approx([np.mean(e[-63:]) for e in excerpts])


def test_bits_per_byte_are_of_the_bytes_of_the_tails_text(fake_lm):
  lm = fake_lm(loss=lambda position, scale: 2 + 0 * position, context_tokens=5)
  # The last four tokens are " sea", " ä", " ship" and ".": 13 bytes.
  ids = lm.encode("In the sea ä ship.")
  (got,) = _evaluate(lm, [ids], 6)["bits_per_byte"].outcomes
  assert got == pytest.approx(4 * 2 / np.log(2) / 13)


def test_an_interval_is_over_excerpts_and_none_of_few(token_losses):
  many = _evaluate(token_losses, [[d] * 64 for d in range(9)], 64)["loss"]
  assert many.outcomes == tuple(range(9))
  assert 0 <= many.low < 4 < many.high <= 8
  few = _evaluate(token_losses, [[d] * 64 for d in range(7)], 64)["loss"]
  assert (few.value, few.low, few.high) == (3, None, None)


def test_the_scale_of_the_condition_reaches_the_model(fake_lm):
  lm = fake_lm(loss=lambda position, scale: scale + 0 * position)
  assert _evaluate(lm, [[0] * 64] * 2, 64)["loss"].value == 2.0
  assert perplexity.mean_loss(lm, [[0] * 64], 0.5) == 0.5


def test_a_mean_loss_is_over_tokens_whatever_their_documents(token_losses):
  documents = [[1] * 11, [4] * 31]
  got = perplexity.mean_loss(token_losses, documents, 1.0)
  assert got == (10 * 1 + 30 * 4) / 40


def test_short_excerpts_are_refused():
  for excerpts in ([[0] * 128, [0] * 127], []):
    with pytest.raises(ValueError, match="at least 128, got"):
      perplexity.sequences(excerpts, 128)


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
