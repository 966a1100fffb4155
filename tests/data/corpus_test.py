"""The packaged corpus: the held-out documents never change."""

from collections.abc import Iterator
import hashlib
import re

import pytest

from drope_jax.data import corpus, tokenizer
from drope_jax.evals import needles

_WORD_REPEATS = 800
_NEEDLE_WORDS = ("magic", "Magic", "word", "words", "Which", "goes", "go")


def test_splits_partition_the_corpus():
  splits = {s: list(corpus.documents(s)) for s in corpus.SPLITS}
  assert {s: len(d) for s, d in splits.items()} == {
    "train": 331,
    "fit": 19,
    "test": 18,
  }
  everything = [d for documents in splits.values() for d in documents]
  assert len(set(everything)) == 233 + 135, "a document is in two splits"


def test_held_out_splits_are_about_a_twentieth_each_and_hold_long_documents():
  sizes = {s: [*map(len, corpus.documents(s))] for s in corpus.SPLITS}
  total = sum(map(sum, sizes.values()))
  for split in ("fit", "test"):
    assert 0.04 < sum(sizes[split]) / total < 0.06
    # Enough to fill 4,096 tokens of the packaged tokenizer, many times.
    assert sum(size > 20_000 for size in sizes[split]) >= 10
    assert any("CHAPTER" in d[:10] for d in corpus.documents(split))


def test_the_split_of_each_document_is_the_one_the_checkpoints_used():
  digest = hashlib.sha256()
  for split in ("fit", "test"):
    for document in corpus.documents(split):
      digest.update(document.encode())
  assert digest.hexdigest() == (
    "6d36c908fec5a9503c14e4f78a9e8c2fa867445a52ac04c4321fc114016e7f47"
  ), (
    "The packaged checkpoints were trained on the rest: with other splits they "
    "must be trained anew, and only then this value changed."
  )


def test_no_held_out_document_repeats_a_training_one():
  width, stride = 80, 40
  seen = {
    document[i : i + width]
    for document in corpus.documents("train")
    for i in range(0, len(document) - width, stride)
  }

  def shared(text):
    hits = sum(text[i : i + width] in seen for i in range(len(text) - width))
    return hits * stride / len(text)

  assert shared(next(corpus.documents("train"))) > 0.9, "nothing is found"
  # Set phrases recur, but whole passages must not.
  for split in ("fit", "test"):
    assert max(map(shared, corpus.documents(split))) < 0.02


def test_an_unknown_split_is_refused():
  with pytest.raises(ValueError, match="train, fit, test, got 'valid'"):
    next(corpus.documents("valid"))


def test_words_are_distinct_common_single_pieces():
  tok = tokenizer.load(corpus.tokenizer_path())
  words = needles.packaged_words()
  assert len(words) == len(set(words)) == 256
  assert all(w.isalpha() and w.islower() and len(w) >= 4 for w in words)
  ids = [tok.encode(f" {word}") for word in words]
  assert all(len(i) == 1 for i in ids)
  assert len(tok.encode(" hippopotamus")) > 1, "everything is one piece"
  text = "".join(corpus.documents("train"))
  assert all(f" {word}" in text for word in words)


def test_needles_and_questions_cost_one_piece_a_word():
  tok = tokenizer.load(corpus.tokenizer_path())
  words = needles.packaged_words()
  said = needles.Needles(words=words)
  key, value, other = words[:3]
  _, one = said.around([key], 1)
  _, many = said.around([key, other], 2)
  for text in (f" {said.needle(key, value)}", f"{one} {value}.", many):
    words_and_marks = re.findall(r"\w+|[^\w\s]", text)
    assert len(tok.encode(text)) == len(words_and_marks)
    assert tok.decode(tok.encode(text)).strip() == text.strip()


def _tokenizer_texts() -> Iterator[str]:
  """Yields the training text of the packaged tokenizer.

  This is the train split, then the nouns and the other words of the needle
  sentences, each repeated often enough to become one piece. Without the
  repetition 18 of the 256 nouns would be one piece. It costs 4% more tokens
  for each character.
  """
  yield from corpus.documents("train")
  repeated = (*needles.packaged_words(), *_NEEDLE_WORDS) * _WORD_REPEATS
  yield "\n".join(f" {word}" for word in repeated)


def test_training_on_tokenizer_texts_gives_the_packaged_tokenizer(tmp_path):
  made = tokenizer.train_sentencepiece(
    _tokenizer_texts(), 2048, str(tmp_path / "made.model")
  )
  packaged = tokenizer.load(corpus.tokenizer_path())
  with open(made.path, "rb") as a, open(packaged.path, "rb") as b:
    assert a.read() == b.read(), (
      "The packaged model no longer comes from _tokenizer_texts(); see "
      "assets/tokenizer/README.md."
    )
