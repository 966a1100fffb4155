"""Byte-level BPE cuts text as each model's own tokenizer does."""

import json

import pytest
import tokenizers
import transformers

from drope_jax.checkpoint.formats import byte_level
from drope_jax.data import corpus

TEXT = next(corpus.documents("test"))[:3000]
TEXTS = (
  TEXT,
  "I'LL say: it's 1234567, naïve e\u0301!\r\n\n  two  spaces \t漢字かな한국어",
  "x=1;\n    if(a<b){return '…';} ¼ ²",
)


def _trained():
  """Pieces and merges that cross what some of the models cut."""
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(use_regex=False)
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=500,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
    max_token_length=8,
  )
  tokenizer.train_from_iterator(TEXTS * 3, trainer)
  model = json.loads(tokenizer.to_str())["model"]
  return model["vocab"], [tuple(merge) for merge in model["merges"]]


IDS, MERGES = _trained()


@pytest.mark.parametrize(
  ("name", "theirs"),
  [
    ("command-r", transformers.CohereTokenizer),
    ("gpt-2", transformers.GPT2Tokenizer),
    ("qwen2", transformers.Qwen2Tokenizer),
  ],
)
def test_text_encodes_as_by_transformers(name, theirs):
  ours = byte_level.build(IDS, MERGES, byte_level.CUTS[name])
  reference = theirs(vocab=dict(IDS), merges=list(MERGES))
  for text in TEXTS:
    want = reference(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text).ids == want


@pytest.mark.parametrize("name", byte_level.CUTS)
def test_text_comes_back(name):
  tokenizer = byte_level.build(IDS, MERGES, byte_level.CUTS[name])
  for text in (TEXTS[0], TEXTS[2]):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
  ("name", "text", "want"),
  [
    ("deepseek-llm", "Don't  1234\n\nx", "Don|'|t|  |1|2|3|4|\n|\n|x"),
    ("deepseek-llm", "漢字 かな, 한국어", "漢字| |かな|,| |한국어"),
    ("deepseek-coder", "a_b 12\n漢字", "a|_|b| |1|2|\n|漢字"),
    ("deepseek-v3", "Don't 1234567", "Don|'t| |123|456|7"),
    ("deepseek-v3", "漢字かな x_y\n", "漢字かな| x|_y|\n"),
    ("tekken", "HelloWorld 123", "Hello|World| |1|2|3"),
    ("smaug-bpe", "Hello 1234", "Hello| |123|4"),
    ("starcoder", "Hello 123", "Hello| |1|2|3"),
  ],
)
def test_text_is_cut_where_the_model_cuts_it(name, text, want):
  cut = byte_level.build({}, [], byte_level.CUTS[name]).pre_tokenizer
  spans = [span for _, span in cut.pre_tokenize_str(text)]
  assert "|".join(text[start:stop] for start, stop in spans) == want
