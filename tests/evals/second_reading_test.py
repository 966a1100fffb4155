"""A passage stands at both ends, and its second reading is scored."""

import dataclasses

import numpy as np
import pytest

from drope_jax.evals import (
  cropped,
  interface,
  needles,
  second_reading,
)
from drope_jax.evals.task import Order

CONDITION = interface.Condition("tiny", "model", logit_scale=1.5)


def _order(lengths=(64, 128, 512), prefix=(), documents=("text",), excerpts=2):
  return Order(
    encode=lambda text: (
      np.random.default_rng(0).integers(1, 10**6, size=2000).tolist()
    ),
    decode=lambda ids: "",
    documents=documents,
    context_tokens=64,
    lengths=lengths,
    counts=(1,) * len(lengths),
    excerpts=excerpts,
    seed=0,
    prefix=prefix,
    needles=needles.Needles(),
    max_new_tokens=None,
  )


@pytest.mark.parametrize("prefix", [(), (7,)])
def test_the_same_passage_follows_the_same_text_at_every_length(prefix):
  drawn = second_reading.SecondReading().draw(_order(prefix=prefix))
  size = (64 - len(prefix)) // 4
  shortest = drawn[64]
  for length, samples in drawn.items():
    for sample, short in zip(samples, shortest, strict=True):
      ids = sample.ids
      assert len(ids) == length and sample.passage_tokens == size
      assert ids[: len(prefix)] == prefix
      passage = ids[-size:]
      assert ids[len(prefix) :][:size] == passage == short.ids[-size:]
      between = 64 - 2 * size - len(prefix)
      assert ids[-size - between : -size] == short.ids[-size - between : -size]
      # All ids are distinct, so that nothing else is repeated.
      assert len(set(ids)) == length - size
  assert shortest[0].ids != shortest[1].ids


class Reader:
  """Loses nothing on a token that it has read, and 5 nats on others."""

  eos_id, bos_id, context_tokens = 0, None, 64

  def with_logit_scale(self, scale):
    assert scale == CONDITION.logit_scale
    return self

  def loglikelihood(self, sequences):
    return [
      np.array([0.0 if t in s[:i] else -5.0 for i, t in enumerate(s)][1:])
      for s in sequences
    ]


def test_a_reader_recalls_the_passage_and_a_cropped_one_does_not():
  task = second_reading.SecondReading()
  for length, samples in task.draw(_order()).items():
    (whole,) = task.evaluate(Reader(), samples, CONDITION)
    (crop,) = task.evaluate(cropped.Cropped(Reader()), samples, CONDITION)
    assert whole.value == 0 and whole.factor == length / 64
    assert crop.value == (0 if length == 64 else 5)
    assert whole.count == 2 and whole.mean_tokens == length


def test_too_short_a_length_or_text_is_refused():
  task = second_reading.SecondReading()
  with pytest.raises(ValueError, match="at least the context, got 64 and 63"):
    task.draw(_order(lengths=(63, 64)))
  short = dataclasses.replace(_order(), context_tokens=7)
  with pytest.raises(ValueError, match="at least 8 tokens, .* got 7 and 64"):
    task.draw(short)
  # Whatever else is tested, the passage is the same.
  drawn = task.draw(_order())[512]
  assert task.draw(_order(lengths=(512,)))[512] == drawn
  with pytest.raises(ValueError, match="Suite.excerpts: 9 excerpts of 496"):
    task.draw(_order(excerpts=9))
