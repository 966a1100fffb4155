import dataclasses
import re

import numpy as np
import pytest

from drope_jax.evals import interface, needles, niah

WORDS = tuple(f"{a}{b}" for a in "bdfglmnprt" for b in ("ark", "ell", "oon"))
CONDITION = interface.Condition("tiny", "rope", logit_scale=1.5, seed=3)
WORDINGS = {"short": needles.SHORT, "ruler": needles.RULER}
TASKS = ("passkey", "multi_key", "multi_value", "multi_query")
# A prompt ends before its answer, so that its question is no needle.
NEEDLE = r"Magic word: (\w+) (\w+)\."


def _task(name, wording="short"):
  said = needles.Needles(words=WORDS, wording=WORDINGS[wording])
  (task,) = (task for task in niah.TASKS if task.name == name)
  return dataclasses.replace(task, needles=said)


def _samples(config, tokenizer, documents, length=400, count=40, seed=3):
  return niah.samples(config, tokenizer.encode, documents, length, count, seed)


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("name", TASKS)
def test_a_prompt_is_text_with_its_needles_and_the_question(
  tokenizer, documents, name, wording
):
  config = _task(name, wording)
  said = config.needles
  source = " ".join(documents * 2)  # The first goes back into the last.
  for sample in _samples(config, tokenizer, documents, count=10):
    before, ask = said.around(sample.queries, config.num_values)
    assert sample.prompt.startswith(before) and sample.prompt.endswith(ask)
    body = sample.prompt[len(before) : len(sample.prompt) - len(ask)]
    sentences = needles.sentences(body)
    hidden = [s for s in sentences if "magic" in s.lower()]
    assert len(hidden) == config.num_keys * config.num_values
    for key, value in zip(
      np.repeat(sample.queries, config.num_values), sample.answers, strict=True
    ):
      assert said.needle(key, value) in hidden
    for value in sample.others:
      assert any(value in needle for needle in hidden)
    rest = " ".join(s for s in sentences if "magic" not in s.lower())
    assert len(rest) > 100 and rest in source and rest.endswith(".")


# By task, wording and length, of seed 3 over WHALE. Made anew, after a change
# that means to change them, by copying what the failure shows.
WHALE = ["The whale swam on. It was white. The crew was afraid."]
GOLDEN = {
  ("passkey", "short", 60): (
    "was white. Magic word: boon poon. The crew was afraid. The whale swam on. "
    "It was white. The crew was afraid. The whale swam on. Which magic word "
    "goes with boon? Magic word: boon",
    ("poon",),
  ),
  ("multi_value", "short", 105): (
    "The whale swam on. Magic word: doon boon. Magic word: doon toon. It was "
    "white. The crew was afraid. The whale swam on. It was white. Magic word: "
    "doon fark. Magic word: doon park. The crew was afraid. The whale swam on. "
    "It was white. Which magic words go with doon? Magic words: doon",
    (
      "park",
      "boon",
      "fark",
      "toon",
    ),
  ),
  ("multi_key", "ruler", 165): (
    "A special magic word is hidden within the following text. Make sure to "
    "memorize it. I will quiz you about the word afterwards.\nOne of the "
    "special magic words for fark is: dell. It was white. One of the special "
    "magic words for rell is: boon. The crew was afraid. The whale swam on. "
    "One of the special magic words for roon is: nark. It was white. One of "
    "the special magic words for pell is: moon. The crew was afraid. The "
    "whale swam on. It was white. The crew was afraid. The whale swam on. It "
    "was white.\nWhat is the special magic word for rell mentioned in the "
    "provided text? The special magic word for rell mentioned in the provided "
    "text is",
    ("boon",),
  ),
  ("multi_query", "ruler", 190): (
    "Some special magic words are hidden within the following text. Make sure "
    "to memorize it. I will quiz you about the words afterwards.\nOne of the "
    "special magic words for fark is: dell. swam on. One of the special magic "
    "words for rell is: boon. It was white. The crew was afraid. The whale "
    "swam on. One of the special magic words for roon is: nark. One of the "
    "special magic words for pell is: moon. It was white. The crew was "
    "afraid. The whale swam on. It was white. The crew was afraid. The whale "
    "swam on. It was white.\nWhat are all the special magic words for rell, "
    "and pell mentioned in the provided text? The special magic words for "
    "rell, and pell mentioned in the provided text are",
    (
      "boon",
      "moon",
    ),
  ),
}


@pytest.mark.parametrize("name, wording, length", GOLDEN)
def test_golden_prompts(tokenizer, name, wording, length):
  config = _task(name, wording)
  (sample,) = _samples(config, tokenizer, WHALE, length, 1)
  assert (sample.prompt, sample.answers) == GOLDEN[name, wording, length]


@pytest.mark.parametrize("length", [150, 257, 1024])
@pytest.mark.parametrize("name", TASKS)
def test_prompt_and_answer_fill_the_length_and_never_pass_it(
  tokenizer, documents, name, length
):
  config = _task(name)
  for sample in _samples(config, tokenizer, documents, length, 30):
    assert list(sample.prompt_tokens) == tokenizer.encode(sample.prompt)
    total = len(sample.prompt_tokens) + config.max_new_tokens
    # A word and its mark may not fit any more.
    assert length - 2 <= total <= length


def test_lengths_hold_with_sentencepiece_and_a_bos(real_tokenizer, documents):
  config = _task("multi_key", "ruler")
  made = niah.samples(
    config, real_tokenizer.encode, documents, 600, 30, 0, prefix=(1,)
  )
  totals = [len(s.prompt_tokens) + config.max_new_tokens for s in made]
  assert all(s.prompt_tokens[0] == 1 for s in made)
  assert max(totals) <= 600 and np.mean(totals) > 590


def test_a_tokenizer_that_costs_more_in_context_still_fits(documents):
  """Its text costs twice what its words do alone."""

  def encode(text):
    words = text.split()
    return list(range(len(words) * (2 if len(words) > 2 else 1)))

  config = _task("passkey")
  for sample in niah.samples(config, encode, documents, 200, 5, 0):
    assert 180 <= len(sample.prompt_tokens) + config.max_new_tokens <= 200


@pytest.mark.parametrize("length", [1, 20, 46])
def test_a_length_without_room_for_text_is_refused(
  tokenizer, documents, length
):
  with pytest.raises(ValueError, match=f"got a length of {length}"):
    _samples(_task("multi_key"), tokenizer, documents, length)


def test_a_haystack_longer_than_its_text_repeats_it(tokenizer):
  (sample,) = _samples(_task("passkey"), tokenizer, ["It is so."], 200, 1)
  assert sample.prompt.count("It is so.") > 25


def test_samples_depend_on_seed_and_index_alone(tokenizer, documents):
  config = _task("multi_key")
  few = _samples(config, tokenizer, documents, count=3)
  assert few == _samples(config, tokenizer, documents, count=5)[:3]
  assert not set(few) & set(_samples(config, tokenizer, documents, seed=4))
  assert len({sample.answers for sample in few}) == 3


def test_queries_are_drawn_independently(tokenizer, documents):
  config = _task("multi_query")
  repeated, orders = 0, np.zeros(4)
  made = _samples(config, tokenizer, documents, 150, 800)
  for sample in made:
    keys = [key for key, _ in re.findall(NEEDLE, sample.prompt)]
    orders[keys.index(sample.queries[1])] += 1
    repeated += sample.queries[0] == sample.queries[1]
    assert len(sample.answers) == 2
  # 800 draws from 4: the second query repeats the first in 200 +- 12; 16.3 is
  # the chi-square of 3 degrees that chance exceeds once in a thousand.
  assert abs(repeated - 200) < 40
  assert np.sum((orders - 200) ** 2 / 200) < 16.3


@pytest.mark.parametrize("wording", ["short", "ruler"])
def test_questions_share_their_haystack(tokenizer, documents, wording):
  config = dataclasses.replace(_task("multi_key", wording), questions=4)
  made = _samples(config, tokenizer, documents, 400, 10)
  assert len(made) == 10
  for first in range(0, 10, 4):
    together = made[first : first + 4]
    ends = [config.needles.around(sample.queries, 1)[1] for sample in together]
    haystacks = {
      sample.prompt.removesuffix(end)
      for sample, end in zip(together, ends, strict=True)
    }
    assert len(haystacks) == 1
    pairs = [(*sample.queries, *sample.answers) for sample in together]
    assert len(set(pairs)) == len(together)
    needle = config.needles.needle
    assert all(needle(*pair) in min(haystacks) for pair in pairs)
    longest = max(len(sample.prompt_tokens) for sample in together)
    assert 380 < longest + config.max_new_tokens <= 400
  assert made[0].prompt[:200] != made[4].prompt[:200]


def test_one_question_is_asked_as_before(tokenizer, documents):
  config = _task("multi_key")
  alone = _samples(config, tokenizer, documents, 300, 2)
  shared = dataclasses.replace(config, questions=2)
  both = _samples(shared, tokenizer, documents, 300, 4)
  assert [both[0].queries, both[2].queries] == [s.queries for s in alone]
  assert both[0].depth == alone[0].depth and both[1].queries != both[0].queries


def test_depths_are_rulers_forty_and_uniform(tokenizer, documents):
  made = _samples(_task("passkey"), tokenizer, documents, 900, 600)
  depths = np.array([sample.depth for sample in made])
  assert set(depths) <= set(np.round(np.linspace(0, 100, 40)).astype(int))
  counts, _ = np.histogram(depths, bins=4, range=(0, 100))
  assert np.sum((counts - 150) ** 2 / 150) < 16.3
  for sample in made[:50]:
    body = sample.prompt[: sample.prompt.index(" Which magic")]
    sentences = needles.sentences(body)
    (place,) = [i for i, s in enumerate(sentences) if re.fullmatch(NEEDLE, s)]
    assert place == sample.depth * (len(sentences) - 1) // 100
    assert len(sentences) > 50


def _oracle(prompt):
  asked = re.search(r"Magic words?: ([\w, ]+)$", prompt)[1]
  pairs = re.findall(NEEDLE, prompt)
  keys = re.split(r",? and |, ", asked)
  return " " + ", ".join(v for key in keys for k, v in pairs if k == key) + "."


def _lister(prompt):
  pairs = re.findall(NEEDLE, prompt)
  return " " + ", ".join(value for _, value in pairs)


def _results(config, lm, documents):
  made = _samples(config, lm, documents, length=256, count=50)
  results = config.evaluate(lm, made, CONDITION)
  return {result.metric: result for result in results}


@pytest.mark.parametrize("name", TASKS)
def test_a_perfect_reader_scores_one(fake_lm, documents, name):
  config = _task(name)
  got = _results(config, fake_lm(answer=_oracle), documents)
  assert [r.value for r in got.values()] == [1.0, 1.0]
  strict = got["accuracy"]
  assert 0.9 < strict.low < strict.high == 1.0
  assert strict.factor == 4.0 and strict.context_tokens == 64
  assert strict.mean_tokens + config.max_new_tokens == pytest.approx(256, abs=1)
  assert strict.logit_scale == 1.5 and strict.seed == 3 and strict.count == 50
  assert [depth for depth, _ in strict.series] == [10, 30, 50, 70, 90]
  assert all(r.outcomes == (1.0,) * 50 for r in got.values())


def test_listing_every_value_is_not_retrieval(fake_lm, documents):
  config = dataclasses.replace(_task("multi_key"), max_new_tokens=40)
  got = _results(config, fake_lm(answer=_lister), documents)
  assert got["string_match_all"].value == 1.0
  assert got["accuracy"].value == 0.0


def test_an_interval_counts_that_questions_share_a_haystack(fake_lm, documents):
  alone = _task("multi_key")
  shared = dataclasses.replace(alone, questions=4)
  one, four = (
    _results(config, fake_lm(answer=_oracle), documents)["accuracy"]
    for config in (alone, shared)
  )
  assert (one.together, four.together, four.count) == (1, 4, 50)
  # As of 50 questions that are all answered, and of 13 haystacks.
  assert one.low == pytest.approx(0.929, abs=0.001)
  assert four.low == pytest.approx(0.772, abs=0.001)


def test_repeating_the_question_scores_nothing(fake_lm, documents):
  got = _results(
    _task("multi_key"), fake_lm(answer=lambda prompt: prompt[-40:]), documents
  )
  assert [r.value for r in got.values()] == [0.0, 0.0]
  assert got["accuracy"].low == 0.0 and got["accuracy"].high < 0.1


def test_the_scale_of_the_condition_reaches_the_model(fake_lm, documents):
  scales = []

  class Spy(fake_lm):
    def with_logit_scale(self, scale):
      scales.append(scale)
      return self

  _results(_task("passkey"), Spy(answer=_oracle), documents)
  assert scales == [1.5]


def test_samples_of_two_lengths_are_refused(fake_lm, tokenizer, documents):
  config = _task("passkey")
  mixed = [
    *_samples(config, tokenizer, documents, 200, 1),
    *_samples(config, tokenizer, documents, 300, 1),
  ]
  for samples in (mixed, []):
    with pytest.raises(ValueError, match="samples of one length"):
      config.evaluate(fake_lm(answer=_oracle), samples, CONDITION)


@pytest.mark.parametrize(
  "changes",
  [
    {"num_keys": 0},
    {"num_queries": 0},
    {"num_keys": 41},
    {"questions": 0},
    {"questions": 2},
  ],
)
def test_impossible_tasks_are_refused(changes):
  with pytest.raises(ValueError, match="Niah needs"):
    dataclasses.replace(_task("passkey"), **changes)
