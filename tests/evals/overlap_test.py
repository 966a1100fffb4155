import numpy as np
import pytest

from drope_jax.data import corpus
from drope_jax.evals import overlap


def _words(seed, count):
  numbers = np.random.default_rng(seed).integers(10**6, size=count)
  return [f"w{number}" for number in numbers]


def _document(words, source="d"):
  return overlap.Document(source, " ".join(words))


def _overlap(test, fit):
  """Whether two lists of words overlap; alike, whichever is tested."""
  found = []
  for first, second in ((test, fit), (fit, test)):
    try:
      # Other documents around them, which must not hide or cause anything.
      overlap.require_disjoint(
        [_document(_words(9, 50)), _document(first)],
        [_document(second), _document(_words(8, 500))],
      )
      found.append(False)
    except ValueError:
      found.append(True)
  assert found[0] == found[1]
  return found[0]


@pytest.mark.parametrize(
  ("shared", "overlaps"), [(0, False), (99, False), (100, True), (2000, True)]
)
def test_long_documents_overlap_by_the_words_in_common(shared, overlaps):
  common = _words(0, shared)
  first = _words(1, 700) + common + _words(2, 300)
  second = _words(3, 90) + common + _words(4, 1500)
  assert _overlap(first, second) is overlaps


def test_short_runs_are_chance_and_long_ones_add_up():
  common = [_words(i, 25) for i in range(10)]
  other = _words(11, 1000)
  for length, overlaps in ((19, False), (25, True)):
    second = []
    for i, run in enumerate(common):
      second += run[:length] + other[50 * i : 50 * (i + 1)]
    assert _overlap(sum(common, []), second) is overlaps


@pytest.mark.parametrize(
  ("length", "overlaps"), [(19, False), (20, True), (60, True)]
)
def test_a_short_document_overlaps_what_holds_all_of_it(length, overlaps):
  short = _words(0, length)
  assert _overlap(short, short) is overlaps
  assert _overlap(short, _words(1, 300) + short) is overlaps
  assert not _overlap([*short, "more"], _words(1, 300) + short)


def test_case_punctuation_and_spaces_do_not_hide_a_copy():
  words = _words(0, 150)
  changed = ",\n  ".join(word.upper() for word in words) + "!"
  with pytest.raises(
    ValueError,
    match=r"got 150 words of a\.txt that stand in b\.txt too, from "
    f"'{' '.join(words[:6])}' on. Take them out of one.",
  ):
    overlap.require_disjoint(
      [_document(words, "a.txt")], [overlap.Document("b.txt", changed)]
    )


def test_the_message_names_the_document_that_shares_most():
  words = _words(0, 300)
  fit = [
    _document(_words(1, 900) + words[:30], "little"),
    _document(words[30:], "most"),
  ]
  with pytest.raises(
    ValueError, match="300 words of t that stand in most and others too"
  ):
    overlap.require_disjoint([_document(words, "t")], fit)


def test_documents_without_text_overlap_nothing():
  overlap.require_disjoint([overlap.Document("a", "")], [])
  overlap.require_disjoint(
    [overlap.Document("a", " ")], [overlap.Document("b", "")]
  )


def test_the_packaged_splits_do_not_overlap():
  overlap.require_disjoint(
    *(
      [overlap.Document(split, text) for text in corpus.documents(split)]
      for split in ("test", "fit")
    )
  )
