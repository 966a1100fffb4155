"""All tokens are scored once, whatever the window."""

import numpy as np
import pytest

from drope_jax.evals import interface, perplexity, sliding

CONDITION = interface.Condition("tiny", "model")


def test_every_length_scores_the_same_tokens(token_losses):
  ids = np.random.default_rng(0).integers(100, size=(9, 512))
  for window in (64, 100, 512):
    samples = [sliding.Excerpt(tuple(row), window) for row in ids.tolist()]
    task = sliding.SlidingPerplexity()
    (got,) = task.evaluate(token_losses, samples, CONDITION)
    assert got.outcomes == pytest.approx(ids[:, 1:].mean(1))
    assert (got.factor, got.mean_tokens) == (window / 64, window)
    assert got.low < got.value < got.high


def test_a_window_is_all_that_is_read_at_once(fake_lm):
  # Token i of what is read loses i nats.
  lm = fake_lm(loss=lambda position, scale: position)
  (got,) = sliding.SlidingPerplexity().evaluate(
    lm, [sliding.Excerpt(tuple(range(12)), 8)], CONDITION
  )
  # Eight tokens, then the second half of a window.
  assert got.value == np.mean([*range(1, 8), 4, 5, 6, 7])


def test_the_longest_window_is_a_text_read_whole(fake_lm):
  lm = fake_lm(loss=lambda position, scale: np.sqrt(position))
  ids = [list(range(256))] * 2
  (whole,) = sliding.SlidingPerplexity().evaluate(
    lm, [sliding.Excerpt(tuple(row), 256) for row in ids], CONDITION
  )
  loss, *_ = perplexity.evaluate(lm, ids, CONDITION)
  assert whole.outcomes == loss.outcomes
