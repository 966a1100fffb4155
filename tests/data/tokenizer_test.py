"""Tokenizers: lossless, with the ids of the libraries they wrap."""

import hashlib
import json
import os
import pathlib

import hypothesis
from hypothesis import strategies
import pytest
import sentencepiece
import tokenizers
import transformers

from drope_jax.data import corpus, tokenizer

PACKAGED = tokenizer.load(corpus.tokenizer_path())


def _hugging_face(folder, eos="<|endoftext|>"):
  """Writes a byte-level BPE tokenizer.json."""
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=[eos],
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  model.train_from_iterator(["the whale and the ship and the sea"] * 9, trainer)
  path = folder / "tokenizer.json"
  model.save(str(path))
  return path


# U+2581 is how sentencepiece writes a space.
@hypothesis.given(
  strategies.text(
    strategies.characters(codec="utf-8", exclude_characters="\u2581")
  )
)
@hypothesis.example("  two  spaces \n\n\n lines\t\r\n tab ")
@hypothesis.example("</s><s><unk> 1234 漢字 \N{WHALE} \0 ﬁ Å Å")
def test_packaged_tokenizer_is_lossless(text):
  ids = PACKAGED.encode(text)
  assert PACKAGED.decode(ids) == text
  assert PACKAGED.eos_id not in ids and PACKAGED.bos_id not in ids


@hypothesis.given(strategies.lists(strategies.text(max_size=20), max_size=5))
def test_batches_encode_as_single_texts(texts):
  want = [PACKAGED.encode(text) for text in texts]
  assert [ids.tolist() for ids in PACKAGED.encode_batch(texts)] == want


def test_digits_are_single_tokens_and_newlines_are_kept():
  assert len(PACKAGED.encode("1987")) == 4
  assert PACKAGED.encode("\n\n") == 2 * PACKAGED.encode("\n")


def test_training_twice_gives_the_same_file(tmp_path):
  texts = ["the whale\nand  the sea " * 5, "a ship 123 and the sea"]
  first, second = (
    tokenizer.train_sentencepiece(texts, 290, str(tmp_path / f"{i}.model"))
    for i in range(2)
  )
  assert first.fingerprint == second.fingerprint
  other = tokenizer.train_sentencepiece(
    texts[:1], 285, str(tmp_path / "other.model")
  )
  assert other.fingerprint != first.fingerprint
  assert (first.vocab_size, first.bos_id, first.eos_id) == (290, 1, 2)


def test_training_learns_from_lines_above_the_trainers_limit(tmp_path):
  # sentencepiece drops a line of more than 4,192 bytes.
  text = "antidisestablish " * 1000
  tok = tokenizer.train_sentencepiece([text], 290, str(tmp_path / "t.model"))
  assert len(tok.encode(" antidisestablish")) < 6


@pytest.mark.parametrize("vocab_size", [100, 5000])
def test_a_vocabulary_size_that_does_not_suit_the_text_is_refused(
  tmp_path, vocab_size
):
  path = tmp_path / "t.model"
  with pytest.raises(ValueError, match=f"got {vocab_size} pieces"):
    tokenizer.train_sentencepiece(["the whale"], vocab_size, str(path))
  assert not path.exists()


def test_llama_tokenizer_loads_as_sentencepiece_reads_it():
  data = os.environ.get("DROPE_TEST_DATA")
  if not data:
    pytest.skip("DROPE_TEST_DATA is not set")
  path = os.path.join(data, "stories15M", "tokenizer.model")
  tok = tokenizer.load(path)
  assert (tok.vocab_size, tok.bos_id, tok.eos_id) == (32000, 1, 2)
  text = "Once upon a time,\n there was  a little girl."
  reference = sentencepiece.SentencePieceProcessor(model_file=path)
  assert tok.encode(text) == reference.encode(text)
  assert tok.decode(tok.encode(text)) == text


@hypothesis.settings(
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(strategies.text(max_size=50))
def test_hugging_face_matches_transformers(tmp_path_factory, text):
  folder = tmp_path_factory.getbasetemp() / "hf"
  if not folder.exists():
    folder.mkdir()
    _hugging_face(folder)
  path = str(folder / "tokenizer.json")
  tok = tokenizer.load(path)
  reference = transformers.PreTrainedTokenizerFast(
    tokenizer_file=path, split_special_tokens=True
  )
  assert tok.encode(text) == reference.encode(text, add_special_tokens=False)
  assert tok.encode_batch([text, text]) == [tok.encode(text)] * 2
  assert tok.decode(tok.encode(text)) == text
  assert tok.vocab_size == len(reference)


def test_hugging_face_encodes_a_special_token_in_text_as_text(tmp_path):
  tok = tokenizer.load(str(_hugging_face(tmp_path)))
  ids = tok.encode("a<|endoftext|>b")
  assert tok.eos_id not in ids
  assert tok.decode(ids) == "a<|endoftext|>b"


@pytest.mark.parametrize("saved", ["truncation", "padding"])
def test_saved_truncation_and_padding_are_not_applied(saved, tmp_path):
  path = _hugging_face(tmp_path)
  plain = tokenizer.load(str(path))
  texts = ["the whale " * 9, "sea"]
  want = [plain.encode(text) for text in texts]
  raw = tokenizers.Tokenizer.from_file(str(path))
  if saved == "truncation":
    raw.enable_truncation(4)
  else:
    raw.enable_padding()
  raw.save(str(path))
  kept = [encoding.ids for encoding in raw.encode_batch(texts)]
  assert kept != want
  tok = tokenizer.load(str(path))
  assert [tok.encode(text) for text in texts] == want
  assert tok.encode_batch(texts) == want
  # The copies in a checkpoint and in an export do not apply them either.
  content = tokenizer.contents(path)
  assert json.loads(content)[saved] is None
  assert tok.fingerprint == hashlib.sha256(content).hexdigest()


def test_a_file_without_saved_lengths_is_copied_to_the_byte(tmp_path):
  path = _hugging_face(tmp_path)
  path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
  assert tokenizer.contents(path) == path.read_bytes()


def test_sentencepiece_may_begin_with_the_id_0(tmp_path):
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(["the sea and the whale"] * 9),
    model_prefix=str(tmp_path / "t"),
    vocab_size=20,
    hard_vocab_limit=False,
    bos_id=0,
    unk_id=1,
    minloglevel=2,
  )
  tok = tokenizer.load(str(tmp_path / "t.model"))
  assert (tok.bos_id, tok.eos_id) == (0, 2)


def test_a_pattern_that_does_not_terminate_is_an_error(tmp_path):
  path = _hugging_face(tmp_path)
  raw = tokenizers.Tokenizer.from_file(str(path))
  raw.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Split(tokenizers.Regex("(a+)+b"), "isolated"),
      raw.pre_tokenizer,
    ]
  )
  raw.save(str(path))
  tok = tokenizer.load(str(path))
  assert tok.decode(tok.encode("aab")) == "aab"
  for encode in (tok.encode, lambda text: tok.encode_batch(["a", text])):
    with pytest.raises(ValueError, match=r"got a text on which .* retry-limit"):
      encode("a" * 4000)


def test_ids_without_a_token_are_left_out(tmp_path):
  for tok in (PACKAGED, tokenizer.load(str(_hugging_face(tmp_path)))):
    ids = tok.encode("the sea")
    beyond = [tok.vocab_size, tok.vocab_size + 99]
    assert tok.decode([beyond[0], *ids, *beyond]) == tok.decode(ids)


def test_hugging_face_eos_comes_from_the_config_beside_it(tmp_path):
  path = _hugging_face(tmp_path, eos="<|stop|>")
  with pytest.raises(ValueError, match="end-of-document token"):
    tokenizer.load(str(path))
  config = tmp_path / "tokenizer_config.json"
  config.write_text(json.dumps({"model_max_length": 1024}))
  with pytest.raises(ValueError, match="end-of-document token"):
    tokenizer.load(str(path))
  for eos in ("<|stop|>", {"content": "<|stop|>", "special": True}):
    config.write_text(json.dumps({"eos_token": eos}))
    tok = tokenizer.load(str(path))
    assert (tok.eos_id, tok.bos_id) == (0, None)
  for eos in ({"special": True}, 5):
    config.write_text(json.dumps({"eos_token": eos}))
    with pytest.raises(ValueError, match="end-of-document token"):
      tokenizer.load(str(path))


def test_hugging_face_eos_is_the_known_one_where_no_file_names_any(tmp_path):
  """GPT-2's published tokenizer_config.json names none."""
  path = _hugging_face(tmp_path, eos="<|endoftext|>")
  config = tmp_path / "tokenizer_config.json"
  config.write_text(json.dumps({"model_max_length": 1024}))
  assert tokenizer.load(str(path)).eos_id == 0
  config.write_text(json.dumps({"bos_token": "<|endoftext|>"}))
  with pytest.raises(ValueError, match="end-of-document token"):
    tokenizer.load(str(path))


def test_fingerprint_is_the_sha256_of_the_file():
  data = pathlib.Path(corpus.tokenizer_path()).read_bytes()
  assert PACKAGED.fingerprint == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["t.model", "t.json"])
def test_a_file_that_is_not_a_tokenizer_is_refused(tmp_path, name):
  path = tmp_path / name
  with pytest.raises(FileNotFoundError, match="does not exist"):
    tokenizer.load(str(path))
  path.write_bytes(b"nothing of the kind")
  with pytest.raises(ValueError, match=f"{name} must be a"):
    tokenizer.load(str(path))


def test_an_unknown_suffix_is_refused():
  with pytest.raises(ValueError, match=r"\.model or \.json, got vocab.txt"):
    tokenizer.load("vocab.txt")
