"""A trimmed tokenizer encodes as the whole one, where it has the tokens."""

import json
import re

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from drope_jax.checkpoint.formats import sentencepiece_json
from drope_jax.data import corpus, tokenizer, trimming

TEXT = next(corpus.documents("fit"))[:40_000]
LINES = re.findall(r"\S[^.\n]*", TEXT)


def _sentencepiece(folder, kind, **options):
  prefix = folder / kind
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(LINES),
    model_prefix=str(prefix),
    model_type=kind,
    vocab_size=600,
    num_threads=1,
    minloglevel=2,
    **options,
  )
  return f"{prefix}.model"


def _json(folder, model, trainer, **options):
  made = tokenizers.Tokenizer(model)
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  made.train_from_iterator(
    LINES,
    trainer(
      vocab_size=600,
      special_tokens=["</s>", *options.pop("special_tokens", ())],
      initial_alphabet=alphabet,
      show_progress=False,
      **options,
    ),
  )
  made.add_special_tokens(["<late>"])
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single="$A <late>", special_tokens=[("<late>", made.token_to_id("<late>"))]
  )
  made.save(str(folder / "tokenizer.json"))
  return str(folder / "tokenizer.json")


def _converted(folder):
  processor = sentencepiece.SentencePieceProcessor(corpus.tokenizer_path())
  sentencepiece_json.convert(processor).save(str(folder / "tokenizer.json"))
  return str(folder / "tokenizer.json")


KINDS = {
  "packaged": lambda folder: corpus.tokenizer_path(),
  "sentencepiece unigram": lambda folder: _sentencepiece(folder, "unigram"),
  "sentencepiece BPE without bytes": lambda folder: _sentencepiece(
    folder, "bpe"
  ),
  "json of bytes": lambda folder: _json(
    folder, models.BPE(), trainers.BpeTrainer
  ),
  "json of unigram": lambda folder: _json(
    folder,
    models.Unigram(),
    trainers.UnigramTrainer,
    special_tokens=["<unk>"],
    unk_token="<unk>",
  ),
  "json with byte fallback": _converted,
}


def _counts(whole, lines):
  ids = np.concatenate([whole.encode(line) for line in lines])
  return np.bincount(ids.astype(int), minlength=whole.vocab_size)


@pytest.fixture(params=KINDS)
def path(request, tmp_path):
  return KINDS[request.param](tmp_path)


@pytest.fixture
def trimmed(path, tmp_path):
  """The whole tokenizer, the trimmed one, and which ids this has."""
  whole = tokenizer.load(path)
  counts_V = _counts(whole, LINES[: len(LINES) // 4])
  contents, ids = trimming.trim(path, counts_V, whole.vocab_size * 3 // 4)
  (tmp_path / "trimmed").mkdir()
  file = tmp_path / "trimmed" / f"t{path[path.rindex('.') :]}"
  file.write_bytes(contents)
  return whole, tokenizer.load(str(file)), ids


def test_a_text_of_kept_tokens_is_encoded_alike(trimmed):
  whole, small, ids = trimmed
  assert small.vocab_size == len(ids) == whole.vocab_size * 3 // 4
  new = {old: i for i, old in enumerate(ids)}
  kept, others = 0, 0
  for line in LINES:
    before, after = whole.encode(line), small.encode(line)
    if {*before} <= new.keys():
      assert after == [new[i] for i in before], line
      kept += 1
    else:
      others += len(after) > len(before)
    assert small.decode(after) == whole.decode(before)
  assert kept > 1 and others > 1


def test_special_tokens_stay_and_what_encodes_the_rest(trimmed):
  whole, small, ids = trimmed
  assert ids.index(whole.eos_id) == small.eos_id
  for text in "\N{WHALE}é", "</s>":
    encoded = small.encode(text)
    assert small.eos_id not in encoded
    assert small.decode(encoded) == whole.decode(whole.encode(text))


def test_the_most_frequent_tokens_stay(path):
  whole = tokenizer.load(path)
  counts_V = np.arange(whole.vocab_size)
  _, ids = trimming.trim(path, counts_V, whole.vocab_size - 60)
  assert {*range(whole.vocab_size - 60, whole.vocab_size)} <= {*ids}


def test_a_size_that_does_not_fit_is_refused(path):
  whole = tokenizer.load(path)
  counts_V = np.zeros(whole.vocab_size)
  for size in 1, whole.vocab_size:
    with pytest.raises(
      ValueError, match=f"{whole.vocab_size} tokens, got {size}"
    ):
      trimming.trim(path, counts_V, size)


def test_what_is_put_around_a_text_has_its_new_id(tmp_path):
  path = KINDS["json of bytes"](tmp_path)
  whole = tokenizers.Tokenizer.from_file(path)
  contents, ids = trimming.trim(path, np.zeros(601), 400)
  small = tokenizers.Tokenizer.from_buffer(contents)
  late = whole.token_to_id("<late>")
  assert whole.encode("a").ids[-1] == late
  assert small.encode("a").ids[-1] == ids.index(late) == 399
  assert json.loads(contents)["added_tokens"][-1]["id"] == 399


def test_merges_of_older_files_are_read(tmp_path):
  path = KINDS["json of bytes"](tmp_path)
  with open(path, encoding="utf-8") as file:
    saved = json.load(file)
  want = trimming.trim(path, np.zeros(601), 400)
  saved["model"]["merges"] = [" ".join(p) for p in saved["model"]["merges"]]
  del saved["model"]["type"]
  with open(path, "w", encoding="utf-8") as file:
    json.dump(saved, file)
  assert trimming.trim(path, np.zeros(601), 400) == want


def test_another_kind_of_model_is_refused(tmp_path):
  made = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, "a"))
  made.save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(ValueError, match="BPE or unigram .* got WordLevel"):
    trimming.trim(str(tmp_path / "tokenizer.json"), np.zeros(2), 1)


def test_marks_of_subwords_are_refused(tmp_path):
  made = tokenizers.Tokenizer(
    models.BPE({"a": 0, "##b": 1}, [], continuing_subword_prefix="##")
  )
  made.save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(ValueError, match="no continuing_subword_prefix .* '##'"):
    trimming.trim(str(tmp_path / "tokenizer.json"), np.zeros(2), 1)


def test_llamas_tokenizer_is_trimmed(test_data, tmp_path):
  path = str(test_data / "stories15M" / "tokenizer.model")
  whole = tokenizer.load(path)
  contents, ids = trimming.trim(path, _counts(whole, LINES), 1000)
  (tmp_path / "t.model").write_bytes(contents)
  small = tokenizer.load(str(tmp_path / "t.model"))
  assert (small.bos_id, small.eos_id) == (1, 2)
  assert ids[:259] == tuple(range(259))
  for line in LINES[:50]:
    assert small.decode(small.encode(line)) == line
