import re

import numpy as np
import pytest

from drope_jax.evals import needles

WORDS = ("red", "blue", "green", "gold", "pink", "gray", "teal", "plum", "rust")


def _needles(**changes):
  return needles.Needles(**{"words": WORDS, **changes})


# RULER c3f5e3b, by hand from niah.py and constants.py. Its issue 107: the
# answer prefix was dropped for base models, so it is part of each text here.
AROUND = {
  ("ruler", ("red",), 1): (
    "A special magic number is hidden within the following text. Make sure to "
    "memorize it. I will quiz you about the number afterwards.\n",
    "\nWhat is the special magic number for red mentioned in the provided text?"
    " The special magic number for red mentioned in the provided text is",
  ),
  ("ruler", ("red",), 4): (
    "Some special magic numbers are hidden within the following text. Make sure"
    " to memorize it. I will quiz you about the numbers afterwards.\n",
    "\nWhat are all the special magic numbers for red mentioned in the provided"
    " text? The special magic numbers for red mentioned in the provided text "
    "are",
  ),
  ("ruler", ("red", "blue", "red", "gold"), 1): (
    "Some special magic numbers are hidden within the following text. Make sure"
    " to memorize it. I will quiz you about the numbers afterwards.\n",
    "\nWhat are all the special magic numbers for red, blue, red, and gold "
    "mentioned in the provided text? The special magic numbers for red, blue, "
    "red, and gold mentioned in the provided text are",
  ),
  ("short", ("red",), 1): (
    "",
    " Which magic number goes with red? Magic number: red",
  ),
  ("short", ("red",), 4): (
    "",
    " Which magic numbers go with red? Magic numbers: red",
  ),
  ("short", ("red", "blue"), 1): (
    "",
    " Which magic numbers go with red, and blue? Magic numbers: red, and blue",
  ),
}


@pytest.mark.parametrize("wording, queries, num_values", AROUND)
def test_text_around_the_haystack_is_rulers(wording, queries, num_values):
  wordings = {"ruler": needles.RULER, "short": needles.SHORT}
  asking = _needles(wording=wordings[wording], value_kind="numbers")
  want = AROUND[wording, queries, num_values]
  assert asking.around(queries, num_values) == want


def test_needles_read_as_in_ruler_and_shortened():
  ruler = _needles(wording=needles.RULER, value_kind="numbers")
  short = _needles(wording=needles.SHORT)
  assert ruler.needle("red", "1234567") == (
    "One of the special magic numbers for red is: 1234567."
  )
  assert short.needle("red", "blue") == "Magic word: red blue."


def test_draws_are_distinct_and_fill_the_words():
  seen = set()
  for seed in range(200):
    pairs = _needles().draw(np.random.default_rng(seed), 3, 2)
    said = [*pairs, *(v for values in pairs.values() for v in values)]
    assert len(set(said)) == len(said) == 9
    seen.update(said)
  assert seen == set(WORDS)


def test_numbers_have_their_digits_and_are_distinct():
  asking = _needles(value_kind="numbers", digits=1)
  (values,) = asking.draw(np.random.default_rng(0), 1, 9).values()
  assert sorted(values) == list("123456789")


@pytest.mark.parametrize(
  "changes, keys, values",
  [({}, 6, 1), ({"value_kind": "numbers", "digits": 1}, 5, 2)],
)
def test_too_few_words_or_numbers_are_named(changes, keys, values):
  with pytest.raises(ValueError, match=f"{keys} keys of {values}.*need"):
    _needles(**changes).draw(np.random.default_rng(0), keys, values)


@pytest.mark.parametrize(
  "changes",
  [{"value_kind": "uuids"}, {"digits": 0}, {"words": ("red", "red")}],
)
def test_impossible_needles_are_refused(changes):
  with pytest.raises(ValueError, match="Needles"):
    _needles(**changes)


def test_packaged_words_are_distinct_lower_case_words():
  words = needles.Needles().words
  assert len(set(words)) == len(words) >= 100
  assert all(re.fullmatch("[a-z]+", word) for word in words)


def test_sentences_split_at_stops_and_lose_nothing_but_whitespace():
  text = 'Mr. Bush\nspoke. "Who?"  She did! J. Adams, too.\n\nSo be it'
  got = needles.sentences(text)
  want = ["Mr. Bush spoke.", '"Who?"', "She did!", "J. Adams, too.", "So be it"]
  assert got == want
  assert needles.sentences(" \n ") == []


def test_continuation_is_what_the_whole_text_encodes_to(real_tokenizer):
  encode = real_tokenizer.encode
  first, rest = "The ship was red.", " Magic word: red blue."
  joined = encode(first) + needles.encode_continuation(encode, rest)
  assert joined == encode(first + rest)
  # The space before the second sentence is what makes the two differ.
  assert encode(first) + encode(rest.strip()[1:]) != joined


def test_a_tokenizer_that_merges_over_spaces_is_refused():
  def encode(text):
    return [hash(text)]

  with pytest.raises(ValueError, match="splits at spaces"):
    needles.encode_continuation(encode, " red")
