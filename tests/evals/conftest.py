"""Tokenizers and language models that need no weights."""

import re

import numpy as np
import pytest
import sentencepiece


class PieceTokenizer:
  """Words with the space before them, and marks: lossless, split at spaces."""

  def __init__(self):
    self.pieces = ["<eos>"]

  def encode(self, text):
    ids = []
    for piece in re.findall(r" ?\w+| ?[^\w\s]|\s", text):
      if piece not in self.pieces:
        self.pieces.append(piece)
      ids.append(self.pieces.index(piece))
    return ids

  def decode(self, ids):
    return "".join(self.pieces[i] for i in ids if i < len(self.pieces))


class FakeLM:
  """An LM whose losses and answers are functions given to it.

  Args:
    answer: prompt text to continuation text.
    loss: (token position, logit scale) to nats; positions are a float array.
  """

  eos_id = 0
  bos_id = None

  def __init__(self, answer=None, loss=None, context_tokens=64, scale=1.0):
    self.tokenizer = PieceTokenizer()
    self.answer, self.loss = answer, loss
    self.context_tokens, self.scale = context_tokens, scale

  def encode(self, text):
    return self.tokenizer.encode(text)

  def decode(self, ids):
    return self.tokenizer.decode(ids)

  def batch_size(self, tokens):
    return 8192 // tokens or 1

  def logit_scale_at(self, tokens):
    return self.scale

  def with_logit_scale(self, scale):
    other = FakeLM(self.answer, self.loss, self.context_tokens, scale)
    other.tokenizer = self.tokenizer
    return other

  def with_logit_slope(self, c, *, by_query=False):
    other = self.with_logit_scale(self.scale)
    other.slope = c
    return other

  def loglikelihood(self, sequences):
    return [
      -np.asarray(self.loss(np.arange(1.0, len(s)), self.scale), np.float32)
      for s in sequences
    ]

  def generate(self, prompts, max_new_tokens, stop=()):
    outputs = [self.encode(self.answer(self.decode(p))) for p in prompts]
    return [[*ids[: max_new_tokens - 1], self.eos_id] for ids in outputs]


class TokensAsLosses(FakeLM):
  """Its loss at a token is the token's id, whatever its scale."""

  def with_logit_scale(self, scale):
    return self

  def loglikelihood(self, sequences):
    return [-np.asarray(s[1:], np.float32) for s in sequences]


@pytest.fixture
def token_losses():
  return TokensAsLosses()


@pytest.fixture
def tokenizer():
  return PieceTokenizer()


@pytest.fixture
def fake_lm():
  return FakeLM


@pytest.fixture(scope="session")
def real_tokenizer(test_data):
  """A sentencepiece model of 512 pieces (karpathy/tinyllamas)."""
  path = test_data / "stories260K" / "tok512.model"
  return sentencepiece.SentencePieceProcessor(model_file=str(path))


@pytest.fixture(scope="session")
def documents():
  """Text without a needle in it, every sentence of its own."""
  rng = np.random.default_rng(0)
  nouns = ["sea", "ship", "crew", "mast", "sail", "storm", "captain", "shore"]

  def sentence(d, s):
    words = " ".join(rng.choice(nouns, rng.integers(2, 9)))
    return f"In {d} and {s} the {words} came."

  return [" ".join(sentence(d, s) for s in range(150)) for d in range(4)]
