import re

import numpy as np
import pytest

from drope_jax.evals import needle_documents, needles

EOS = 0
WORDS = tuple(f"{a}{b}" for a in "bdfglmnprt" for b in ("ark", "ell", "oon"))
# With the answer, whose line reads like a needle: take questions out first.
QUESTION = (
  r" Which magic word goes with (\w+)\? Magic word: \1 (\w+)\."
  r"| Which magic words go with ([\w, ]+)\? Magic words: \3 ([\w, ]+)\."
)
NEEDLE = r" Magic word: (\w+) (\w+)\."


def _config(**changes):
  said = needles.Needles(words=WORDS)
  return needle_documents.NeedleDocuments(**{"needles": said, **changes})


def _texts(config, tokenizer, documents, tokens=300, count=300, seed=0):
  """Returns the documents' texts without their EOS."""
  return [
    tokenizer.decode(ids[:-1])
    for ids in needle_documents.training_documents(
      config, tokenizer.encode, documents, tokens, count, seed, EOS
    )
  ]


def _questions(text):
  """Returns (place, keys, values) of the questions, in order."""
  found = []
  for match in re.finditer(QUESTION, text):
    one, value, many, values = match.groups()
    keys = re.split(r",? and |, ", many) if many else [one]
    found.append((match.start(), keys, (values or value).split(", ")))
  assert len(found) == text.count("Which") == text.count("?")
  return found


@pytest.mark.parametrize("tokens", [200, 201, 512, 1024])
def test_documents_have_exactly_the_tokens_and_end_once(
  tokenizer, documents, tokens
):
  made = list(
    needle_documents.training_documents(
      _config(), tokenizer.encode, documents, tokens, 20, 0, EOS
    )
  )
  assert [len(ids) for ids in made] == [tokens] * 20
  assert all(ids[-1] == EOS and EOS not in ids[:-1] for ids in made)
  assert all(type(i) is int for i in made[0])


def test_every_question_is_answered_by_needles_before_it(tokenizer, documents):
  config = _config(
    min_keys=3, max_keys=6, max_values=3, min_queries=1, max_queries=2
  )
  asked, midway, several = 0, 0, 0
  for text in _texts(config, tokenizer, documents):
    for place, keys, values in _questions(text):
      plain = re.sub(QUESTION, "", text[:place])
      said = re.findall(NEEDLE, plain)
      assert values == [v for key in keys for k, v in said if k == key]
      # What was said of a key later would make the answer wrong.
      rest = re.sub(QUESTION, "", text[place:])
      assert not {k for k, _ in re.findall(NEEDLE, rest)} & set(keys)
      asked += 1
      several += len(values) > 1
      midway += bool(re.search(r" came\.", rest))
  assert asked > 300 and several > 100
  assert 0.1 < midway / asked < 0.3, "config.midway is 0.3, less late places"


def test_no_key_is_asked_twice_and_none_is_favored(tokenizer, documents):
  config = _config(min_keys=4, max_keys=4, midway=0.0)
  ranks = np.zeros(4)
  for text in _texts(config, tokenizer, documents, count=600):
    keys = [key for _, asked, _ in _questions(text) for key in asked]
    assert 1 <= len(keys) == len(set(keys)) <= 3
    order = [k for k, _ in re.findall(NEEDLE, text[: _questions(text)[0][0]])]
    ranks[order.index(keys[0])] += 1
  # The first question asks for any needle alike: 3 degrees of freedom, and
  # 16.3 is exceeded by chance once in a thousand.
  assert np.sum((ranks - 150) ** 2 / 150) < 16.3


def test_depths_are_uniform(tokenizer, documents):
  config = _config(min_keys=1, max_keys=1, max_questions=1, midway=0.0)
  counts = np.zeros(5)
  for text in _texts(config, tokenizer, documents, tokens=800, count=500):
    body = text[: _questions(text)[0][0]]
    needle = re.search(NEEDLE, body)
    depth = needle.start() / (len(body) - len(needle[0]))
    counts[min(int(5 * depth), 4)] += 1
  # Sentences make depths grainy; 18.5 is exceeded once in a thousand.
  assert np.sum((counts - 100) ** 2 / 100) < 18.5


def test_needles_are_said_again_just_before_the_questions(tokenizer, documents):
  config = _config(min_keys=4, max_keys=4, midway=0.0, restatements=5)
  ranks = np.zeros(4)
  for text in _texts(config, tokenizer, documents):
    body = text[: _questions(text)[0][0]]
    said = re.findall(NEEDLE, body)
    first, again = said[:-5], said[-5:]
    assert len(first) == len(set(first)) == 4
    assert body.endswith("".join(f" Magic word: {k} {v}." for k, v in again))
    for pair in again:
      ranks[first.index(pair)] += 1
  # Any needle alike: 16.3 is exceeded once in a thousand.
  assert np.sum((ranks - 375) ** 2 / 375) < 16.3


def test_the_haystack_is_an_unbroken_run_of_the_text(tokenizer, documents):
  source = " " + " ".join(documents)
  for text in _texts(_config(), tokenizer, documents, count=50):
    haystack = re.sub(NEEDLE, "", re.sub(QUESTION, "", text))
    assert len(haystack) > 200 and haystack in source
    assert haystack.endswith(".")


def test_a_short_haystack_is_repeated(tokenizer):
  config = _config(max_keys=2)
  (text,) = _texts(config, tokenizer, ["It is so."], tokens=200, count=1)
  assert text.count(" It is so.") > 20


def test_document_i_depends_on_seed_and_i_alone(tokenizer, documents):
  few = _texts(_config(), tokenizer, documents, count=3)
  many = _texts(_config(), tokenizer, documents, count=5)
  other = _texts(_config(), tokenizer, documents, count=3, seed=1)
  assert few == many[:3]
  assert len({*many, *other}) == 8


def test_tokens_are_those_of_the_whole_text(real_tokenizer, documents):
  haystack = needle_documents.Haystack.encode(real_tokenizer.encode, documents)
  for seed in range(20):
    ids = needle_documents.training_document(
      _config(),
      real_tokenizer.encode,
      haystack,
      700,
      np.random.default_rng(seed),
      2,
    )
    text = real_tokenizer.decode(ids[:-1])
    whole = real_tokenizer.encode(text)
    # The cut may fall inside the first word, and splits it otherwise.
    assert ids[20:-1] == whole[-len(ids[20:-1]) :]


def test_a_document_too_short_for_its_needles_is_refused(tokenizer, documents):
  with pytest.raises(ValueError, match="of 30 tokens must hold .*max_keys"):
    _texts(_config(min_keys=6), tokenizer, documents, tokens=30, count=1)


@pytest.mark.parametrize(
  "changes",
  [
    {"min_keys": 0},
    {"min_keys": 7},
    {"max_questions": 0},
    {"midway": 1.5},
    {"restatements": -1},
  ],
)
def test_impossible_documents_are_refused(changes):
  (name,) = changes
  with pytest.raises(
    ValueError, match=rf"NeedleDocuments.*{name}.*, got .*\. "
  ):
    _config(**changes)


def test_text_without_a_sentence_is_refused(tokenizer):
  with pytest.raises(ValueError, match="without a sentence"):
    needle_documents.Haystack.encode(tokenizer.encode, [" "])
