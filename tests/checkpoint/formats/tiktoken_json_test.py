"""The tokenizer.json of a list of ranks encodes as tiktoken does."""

import base64
import collections
import itertools

import hypothesis
from hypothesis import strategies as st
import pytest

from drope_jax.checkpoint.formats import byte_level, tiktoken_json
from drope_jax.data import corpus
from drope_jax.data import tokenizer as tokenizers

regex = pytest.importorskip("regex")

TEXT = next(corpus.documents("test"))[:20_000]


def _pieces(text):
  return [cut.encode() for cut in regex.findall(byte_level.LLAMA_3, text)]


def _pairs(parts):
  return [one + other for one, other in itertools.pairwise(parts)]


def _merged(parts, i):
  return (*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :])


def _letters(piece):
  return tuple(bytes([byte]) for byte in piece)


def _encode(ranks, text):
  """tiktoken's algorithm: the first of the pairs of the lowest rank merges."""
  ids = []
  for piece in _pieces(text):
    parts = (piece,) if piece in ranks else _letters(piece)
    while any(pair in ranks for pair in _pairs(parts)):
      pairs = [ranks.get(pair, len(ranks)) for pair in _pairs(parts)]
      parts = _merged(parts, pairs.index(min(pairs)))
    ids += [ranks[part] for part in parts]
  return ids


def _trained():
  """Ranks of bytes, in an order of their own, and of 150 frequent pairs."""
  ranks = {bytes([byte * 7 % 256]): byte for byte in range(256)}
  words = collections.Counter(map(_letters, _pieces(TEXT)))
  for rank in range(256, 406):
    counts = collections.Counter()
    for parts, count in words.items():
      for pair in _pairs(parts):
        counts[pair] += count
    best = counts.most_common(1)[0][0]
    ranks[best] = rank
    merged = collections.Counter()
    for parts, count in words.items():
      while best in _pairs(parts):
        parts = _merged(parts, _pairs(parts).index(best))
      merged[parts] += count
    words = merged
  # No merges lead here, as to some of Llama 3's tokens.
  return ranks | {b" unreachable": 406}


RANKS = _trained()


def _write(path, ranks):
  """Lines may come in any order."""
  pairs = reversed(ranks.items())
  lines = (b"%s %d\n" % (base64.b64encode(x), i) for x, i in pairs)
  path.write_bytes(b"".join(lines))
  return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  model = _write(folder / "tokenizer.model", RANKS)
  path = tiktoken_json.write(model, tiktoken_json.LLAMA_3_1, folder)
  return tokenizers.load(str(path))


def test_text_encodes_alike_and_comes_back(tokenizer):
  text = TEXT + " unreachable 12345\r\n\n  I'LL naïve 漢字 \t"
  ids = tokenizer.encode(text)
  assert ids == _encode(RANKS, text)
  assert 406 in ids and max(ids) == 406
  assert tokenizer.decode(ids) == text


@hypothesis.given(st.text() | st.text("ae t'S1\n", max_size=30))
def test_any_text_encodes_alike(tokenizer, text):
  assert tokenizer.encode(text) == _encode(RANKS, text)


def test_special_tokens_follow_the_ranks(tokenizer):
  size = len(RANKS)
  assert tokenizer.vocab_size == size + 256
  assert (tokenizer.bos_id, tokenizer.eos_id) == (size, size + 1)
  assert tokenizer.encode("<|eot_id|>") == _encode(RANKS, "<|eot_id|>")


def test_special_tokens_are_metas():
  """As the models' tokenizer_config.json name the ids from 128000 on."""
  for names, known in (
    (
      tiktoken_json.LLAMA_3,
      {
        2: "<|reserved_special_token_0|>",
        5: "<|reserved_special_token_3|>",
        6: "<|start_header_id|>",
        7: "<|end_header_id|>",
        8: "<|reserved_special_token_4|>",
        9: "<|eot_id|>",
        10: "<|reserved_special_token_5|>",
        255: "<|reserved_special_token_250|>",
      },
    ),
    (
      tiktoken_json.LLAMA_3_1,
      {
        3: "<|reserved_special_token_1|>",
        4: "<|finetune_right_pad_id|>",
        5: "<|reserved_special_token_2|>",
        6: "<|start_header_id|>",
        8: "<|eom_id|>",
        9: "<|eot_id|>",
        10: "<|python_tag|>",
        11: "<|reserved_special_token_3|>",
        255: "<|reserved_special_token_247|>",
      },
    ),
  ):
    assert len(set(names)) == 256
    assert names[:2] == ("<|begin_of_text|>", "<|end_of_text|>")
    assert {i: names[i] for i in known} == known


@pytest.mark.parametrize(
  ("content", "says"),
  [
    (b"\n\x05\x00\xff", "a token in base64 and its rank"),
    (b"IQ== 0\nIg== one\n", "a token in base64 and its rank"),
    (b"IQ== 0\nIg== 1\n", "must rank every byte"),
  ],
)
def test_other_files_are_refused(content, says, tmp_path):
  model = tmp_path / "tokenizer.model"
  model.write_bytes(content)
  with pytest.raises(ValueError, match=says):
    tiktoken_json.write(model, tiktoken_json.LLAMA_3, tmp_path)


def test_ranks_that_are_not_those_of_the_lines_are_refused(tmp_path):
  model = _write(tmp_path / "tokenizer.model", RANKS | {b" the": 1000})
  with pytest.raises(ValueError, match="each of its lines once"):
    tiktoken_json.write(model, tiktoken_json.LLAMA_3, tmp_path)
