import numpy as np
import pytest

from drope_jax.evals import running_text

DOCUMENTS = ["One two. Three four five.", "Six. Seven"]


def _text(tokenizer, tokens):
  return running_text.RunningText.of(tokenizer.encode, DOCUMENTS, tokens)


def test_ends_are_those_of_sentences_and_documents(tokenizer):
  text = _text(tokenizer, 5)
  rng = np.random.default_rng(0)
  ends = [text.draw_end(rng) for _ in range(400)]
  assert {text.words[end - 1] for end in ends} == {
    "two.",
    "five.",
    "Six.",
    "Seven",
  }
  # The end of a document is no likelier than any other sentence's.
  counts = np.unique(ends, return_counts=True)[1]
  assert np.sum((counts - 100) ** 2 / 100) < 16.3


@pytest.mark.parametrize("tokens", [1, 10, 11, 100])
def test_there_is_always_enough_before_an_end(tokenizer, tokens):
  text = _text(tokenizer, tokens)
  for seed in range(50):
    end = text.draw_end(np.random.default_rng(seed))
    assert text.costs[end] >= tokens


def test_sentences_are_whole_but_the_first_and_cost_what_is_said(tokenizer):
  text = _text(tokenizer, 5)
  stop = text.words.index("Six.", 7) + 1
  assert text.sentences(stop - 3, stop) == ["four five.", "Six."]
  assert text.sentences(stop, stop) == []
  # Three words and two stops.
  assert text.costs[stop] - text.costs[stop - 3] == 5


def test_a_haystack_of_hardly_any_text_is_refused(tokenizer):
  # Seven words and three stops.
  assert _text(tokenizer, 1000).period == 7
  message = r"1001 tokens needs text of at least 11.*got documents of 10\. Pa"
  with pytest.raises(ValueError, match=message):
    _text(tokenizer, 1001)


def test_documents_without_a_word_are_refused(tokenizer):
  with pytest.raises(ValueError, match="without a word"):
    running_text.RunningText.of(tokenizer.encode, ["", " "], 5)
