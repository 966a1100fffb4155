"""What is remembered is not read again, and changes nothing."""

import dataclasses

import numpy as np
import pytest

from drope_jax.evals import interface, remembering

ABOUT = {"model": "m", "method": "yarn"}


class Kept:
  """A memory in a dict."""

  def __init__(self):
    self.readings, self.about = {}, []

  def recall(self, key):
    return self.readings.get(key)

  def add(self, readings, about):
    self.readings |= readings
    self.about += about


class Model:
  """Doubles a prompt's last id; notes what it reads, and fails if told to."""

  eos_id, bos_id, context_tokens, size = 0, None, 8, 2

  def __init__(self, fails_at=None, scale=1.0):
    self.read, self.fails_at, self.scale = [], fails_at, scale

  def batch_size(self, tokens):
    return self.size

  def decode(self, ids):
    return " ".join(map(str, ids))

  def with_logit_scale(self, scale):
    other = Model(self.fails_at, scale)
    other.read = self.read
    return other

  def generate(self, prompts, max_new_tokens, stop=()):
    if self.fails_at is not None and len(self.read) >= self.fails_at:
      raise KeyboardInterrupt
    self.read.append([list(p) for p in prompts])
    return [[2 * p[-1]] * max_new_tokens + [0] for p in prompts]

  def loglikelihood(self, sequences):
    self.read.append([list(s) for s in sequences])
    return [self.scale * np.array(s[1:], np.float32) for s in sequences]

  def score(self, contexts, endings):
    pairs = zip(contexts, endings, strict=True)
    log_p = self.loglikelihood([[context[-1], *e] for context, e in pairs])
    return [interface.Scored(x, x % 2 == 0) for x in log_p]


PROMPTS = [[1, 2], [3, 4, 5], [6], [7, 8, 9, 10], [1, 2], [11, 12]]


@pytest.fixture(autouse=True)
def every_length_counts(monkeypatch):
  monkeypatch.setattr(remembering, "_LENGTH_STEP", 1)


def test_readings_come_in_the_order_of_the_prompts():
  model = Model()
  lm = remembering.Remembering(model, Kept(), ABOUT)
  assert lm.generate(PROMPTS, 2) == Model().generate(PROMPTS, 2)
  # Longest first, the same prompt once, and no small rest.
  assert model.read == [[[7, 8, 9, 10], [3, 4, 5]], [[1, 2], [11, 12], [6]]]
  for got, want in zip(
    lm.loglikelihood(PROMPTS), Model().loglikelihood(PROMPTS), strict=True
  ):
    np.testing.assert_array_equal(got, want)
  pairs = PROMPTS, PROMPTS[::-1]
  for got, want in zip(lm.score(*pairs), Model().score(*pairs), strict=True):
    np.testing.assert_array_equal(got.log_p, want.log_p)
    np.testing.assert_array_equal(got.is_top, want.is_top)
    assert got.is_top.dtype == bool


def test_what_was_read_before_a_cut_is_not_read_again():
  memory, tokens = Kept(), []
  cut = remembering.Remembering(Model(fails_at=1), memory, ABOUT)
  with pytest.raises(KeyboardInterrupt):
    cut.generate(PROMPTS, 1)
  model = Model()
  lm = remembering.Remembering(model, memory, ABOUT, tokens.append)
  assert lm.generate(PROMPTS, 1) == Model().generate(PROMPTS, 1)
  assert model.read == [[[1, 2], [11, 12], [6]]]
  # All tokens are counted, those that were there first; one prompt is a copy.
  assert tokens == [4 + 3 + 2, 5]


@pytest.mark.parametrize(
  "change",
  [
    lambda lm: lm.generate([[1, 2]], 2),
    lambda lm: lm.generate([[2]], 1),
    lambda lm: lm.generate([[1, 2]], 1, stop=["."]),
    lambda lm: lm.score([[1]], [[2]]),
    lambda lm: lm.with_logit_scale(2.0).generate([[1, 2]], 1),
    lambda lm: lm.loglikelihood([[1, 2]]),
    # It scales each text by its own length.
    lambda lm: dataclasses.replace(lm, keeps_scale=True).generate([[1, 2]], 1),
    lambda lm: remembering.Remembering(
      lm.lm, lm.memory, ABOUT | {"method": "pi"}
    ).generate([[1, 2]], 1),
  ],
)
def test_a_reading_is_of_all_that_it_depends_on(change):
  model = Model()
  lm = remembering.Remembering(model, Kept(), ABOUT)
  lm.generate([[1, 2]], 1)
  lm.generate([[1, 2]], 1)
  assert len(model.read) == 1
  change(lm)
  assert len(model.read) == 2


def test_two_tasks_that_score_the_same_texts_read_them_once():
  model, kept = Model(), Kept()
  recent = remembering.Recent(kept)

  def score(task, *condition):
    memory, about = recent.of(*condition), ABOUT | {"task": task}
    return remembering.Remembering(model, memory, about).loglikelihood(PROMPTS)

  first = score("perplexity", "yarn", 8)
  reads = len(model.read)
  kept.readings.clear()  # As after a step that is done.
  again = score("recall", "yarn", 8)
  assert len(model.read) == reads
  for got, want in zip(again, first, strict=True):
    np.testing.assert_array_equal(got, want)
  score("recall", "yarn", 16)  # Of another condition nothing is kept.
  assert len(model.read) == 2 * reads


def test_a_score_depends_on_where_the_ending_begins():
  model = Model()
  lm = remembering.Remembering(model, Kept(), ABOUT)
  (one,) = lm.score([[1, 2]], [[3, 4]])
  (other,) = lm.score([[1, 2, 3]], [[4]])
  assert one.log_p.tolist() == [3, 4] and other.log_p.tolist() == [4]
  assert len(model.read) == 2


def test_prompts_that_begin_alike_are_read_together(monkeypatch):
  monkeypatch.setattr(remembering, "_LENGTH_STEP", 4)
  model = Model()
  lm = remembering.Remembering(model, Kept(), ABOUT)
  one, other, third = [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]
  prompts = [[*one, 5, 6, 7], [*other, 5], [*one, 8], [*third, 4], [*one, 9, 9]]
  lm.generate([*prompts, [*other, 6]], 1)
  first, second = model.read
  assert [prompt[:4] for prompt in first] == [one] * 3
  assert [prompt[:4] for prompt in second] == [other, other, third]


def test_endings_of_a_context_are_read_together():
  model = Model()
  lm = remembering.Remembering(model, Kept(), ABOUT)
  contexts = [[1, 2], [3], [4, 5], [3], [1, 2]]
  lm.score(contexts, [[9], [8], [7], [6, 6], [5, 5]])
  assert model.read == [[[2, 5, 5], [2, 9], [5, 7], [3, 6, 6], [3, 8]]]


def test_a_generation_is_described_for_who_keeps_it():
  memory = Kept()
  lm = remembering.Remembering(Model(), memory, ABOUT).with_logit_scale(1.5)
  lm.generate([[3, 4]], 1)
  assert memory.about == [
    {**ABOUT, "logit_scale": 1.5, "prompt": "3 4", "output": "8"}
  ]
