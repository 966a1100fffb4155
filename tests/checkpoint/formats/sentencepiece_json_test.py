"""The tokenizer.json of a sentencepiece model encodes as the model does."""

import pytest
import sentencepiece

from drope_jax.checkpoint.formats import sentencepiece_json
from drope_jax.data import corpus

TEXTS = (
  "Hello world, it's 1999.\n\n  Two  spaces ",
  "naïve 漢字",
  next(corpus.documents("test"))[:20_000],
)


def _assert_alike(path):
  model = sentencepiece.SentencePieceProcessor(str(path))
  tokenizer = sentencepiece_json.convert(model)
  for text in TEXTS:
    assert tokenizer.encode(text).ids == model.encode(text)
  plain = "A b, c 1."
  assert tokenizer.decode(tokenizer.encode(plain).ids) == plain
  assert tokenizer.token_to_id("</s>") == model.eos_id()


def test_without_a_space_in_front():
  _assert_alike(corpus.tokenizer_path())


@pytest.mark.parametrize(
  "name", ["stories15M/tokenizer.model", "stories260K/tok512.model"]
)
def test_with_one_and_with_joined_spaces(test_data, name):
  _assert_alike(test_data / name)
