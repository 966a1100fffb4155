"""Long texts: pieces have the ids of the whole text."""

import io

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest
import sentencepiece
import tokenizers

from drope_jax.data import corpus, encode, long_texts, tokenizer

TEXT = "".join(corpus.documents("fit"))[:50_000]
# The patterns of GPT-2 and Llama 3.
PATTERNS = {
  "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|"
  r"\s+(?!\S)|\s+",
  "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
  r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def _hugging_face(folder, pattern):
  bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
  split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
  level = tokenizers.pre_tokenizers.ByteLevel(False, use_regex=False)
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, level])
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=600, special_tokens=["</s>"], show_progress=False
  )
  bpe.train_from_iterator([TEXT], trainer)
  bpe.save(str(folder / "tokenizer.json"))
  return folder / "tokenizer.json"


def _sentencepiece(folder, kind):
  """Trains a model with Llama 2's settings (a space in front) or the defaults.

  The default is a unigram model with NFKC, which merges runs of spaces.
  """
  llama = {"normalization_rule_name": "identity"}
  llama |= {"remove_extra_whitespaces": False}
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=(TEXT[i : i + 500] for i in range(0, 50_000, 500)),
    model_writer=model,
    vocab_size=300,
    model_type=kind,
    minloglevel=2,
    **(llama if kind == "bpe" else {}),
  )
  (folder / f"{kind}.model").write_bytes(model.getvalue())
  return folder / f"{kind}.model"


@pytest.fixture(
  scope="module", params=["packaged", "bpe", "unigram", "gpt2", "llama3"]
)
def made(request, tmp_path_factory):
  folder, kind = tmp_path_factory.mktemp("tokenizer"), request.param
  if kind == "packaged":
    path = corpus.tokenizer_path()
  elif kind in PATTERNS:
    path = _hugging_face(folder, PATTERNS[kind])
  else:
    path = _sentencepiece(folder, kind)
  return tokenizer.load(str(path))


def _pieces(text, made):
  """Returns in how many pieces a text is encoded, and checks them."""
  seen, encode_batch = [], made.encode_batch
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(long_texts, "PIECE", 300)
    patch.setattr(
      type(made),
      "encode_batch",
      lambda self, texts: seen.append(texts) or encode_batch(texts),
    )
    got = long_texts.encode(text, made)
  _assert_same(got, made.encode(text), made)
  return len(seen)


def _assert_same(got, want, made):
  if "unigram" not in made.path:
    np.testing.assert_array_equal(got, want)
    return
  # Two segmentations of a word may score alike, and which wins depends on how
  # the float32 sum of all scores before it was rounded.
  assert made.decode(got) == made.decode(want)
  assert abs(len(got) - len(want)) <= 1e-3 * len(want)


def test_pieces_have_the_ids_of_the_whole(made):
  for line_end in ("\n", "\r\n"):
    text = TEXT[:15_000].replace("\n", line_end)
    assert _pieces(text, made) > 30


@hypothesis.settings(max_examples=5)
@hypothesis.given(
  strategies.lists(
    strategies.sampled_from(
      ["the ", " 12345", "\n", "\n\n", "  ", "\t", "漢字", "é", "e\u0301", "."]
      + ["a" * 400, "whale", "'s", "\r\n", "\u3000", "\N{WHALE}"]
    ),
    min_size=200,
    max_size=300,
  )
)
def test_pieces_of_odd_text_have_the_ids_of_the_whole(made, parts):
  _pieces("".join(parts), made)


def test_text_that_cannot_be_cut_is_one_piece(made):
  assert _pieces("x" * 5000, made) == 1


def test_a_batch_keeps_the_order_of_long_and_short_texts(made, monkeypatch):
  texts = ["short", TEXT[:3000], "", TEXT[3000:9000], "last"]
  batch = encode.Batch(texts, "texts", 1, 0)
  whole = encode.encode(batch, made)
  monkeypatch.setattr(long_texts, "PIECE", 500)
  cut = encode.encode(batch, made)
  _assert_same(cut.tokens, whole.tokens, made)
  assert np.abs(cut.lengths - whole.lengths).max() <= 2
