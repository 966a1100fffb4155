"""Older tokenizer files are read as transformers reads them."""

import json
import shutil

import pytest
import tokenizers
import transformers

from drope_jax.checkpoint.formats import vocabulary_files
from drope_jax.data import corpus
from drope_jax.data import tokenizer as tokenizer_lib

FLAGS = dict.fromkeys(
  ("special", "lstrip", "rstrip", "normalized", "single_word"), False
)
TEXTS = (
  "a <think>b</think>",
  "<think>x",
  "x<think><think>y z",
  "The President of the United States, naïve 漢字 1999",
  "",
)


def _write(folder, name, data):
  (folder / name).write_text(json.dumps(data))


@pytest.fixture
def folder(tmp_path):
  """A Llama's sentencepiece model of 2048 pieces."""
  path = tmp_path / "theirs"
  path.mkdir()
  shutil.copy(corpus.tokenizer_path(), path / "tokenizer.model")
  _write(path, "config.json", {"model_type": "llama", "eos_token_id": 2})
  return path


def _config(ids, **others):
  # The last comes first: their ids count, and not their order.
  decoder = {
    str(i): {"content": name, **FLAGS} for name, i in reversed(ids.items())
  }
  names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
  return names | {"added_tokens_decoder": decoder} | others


def _prepared(folder, tmp_path, rows=10**10):
  made = tmp_path / "made"
  made.mkdir(exist_ok=True)
  files = sorted(folder.glob("tokenizer.model")) or [folder / "vocab.json"]
  return vocabulary_files.prepare(files[0], made, rows=rows)


IDS = {"<think>": 2048, "</think>": 2049}


@pytest.mark.parametrize("legacy", [True, False])
def test_added_tokens_are_ids_as_in_transformers(folder, tmp_path, legacy):
  _write(
    folder,
    "tokenizer_config.json",
    _config(IDS, legacy=legacy, tokenizer_class=None),
  )
  path = _prepared(folder, tmp_path)
  ours = tokenizer_lib.load(str(path))
  assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (1, 2, 2050)
  # Without a class, transformers goes by what the model says of spaces.
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  exported = transformers.AutoTokenizer.from_pretrained(path.parent)
  for text in TEXTS:
    want = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text) == want
    assert exported(text, add_special_tokens=False)["input_ids"] == want
    assert ours.decode(want) == text
  assert exported("a")["input_ids"][0] == 1
  assert 2048 in ours.encode(TEXTS[0]) and 2049 in ours.encode(TEXTS[0])


def test_a_token_without_flags_takes_no_space_beside_it(folder, tmp_path):
  decoder = {"2048": {"content": "<think>"}}
  _write(
    folder,
    "tokenizer_config.json",
    _config({}) | {"added_tokens_decoder": decoder},
  )
  ours = tokenizer_lib.load(str(_prepared(folder, tmp_path)))
  ids = ours.encode("a <think> b")
  assert 2048 in ids and ours.decode(ids) == "a <think> b"


def test_added_tokens_json_gives_ids_within_the_pieces_and_beyond(
  folder, tmp_path
):
  plain = tokenizer_lib.load(str(folder / "tokenizer.model"))
  word = plain._model.id_to_piece(1500)
  ids = {word: 1500, "<turn>": 1400, "<far>": 2050}
  _write(folder, "added_tokens.json", ids)
  _write(folder, "special_tokens_map.json", {"eos_token": "<turn>"})
  ours = tokenizer_lib.load(str(_prepared(folder, tmp_path)))
  assert (ours.eos_id, ours.vocab_size) == (1400, 2051)
  assert ours.encode("a<far>b") == [
    *plain.encode("a"),
    2050,
    *plain.encode("b"),
  ]
  assert ours.encode(f"x{word}y") == [
    *plain.encode("x"),
    1500,
    *plain.encode("y"),
  ]
  # A special token in a text is text.
  assert 1400 not in ours.encode("<turn>")
  assert ours.decode([1400, 2050]) == "<far>"


def test_a_model_alone_and_its_own_symbols_stay_as_they_are(folder, tmp_path):
  model = folder / "tokenizer.model"
  assert _prepared(folder, tmp_path) == model
  _write(folder, "added_tokens.json", {"<s>": 1, "</s>": 2})
  assert _prepared(folder, tmp_path) == model


def test_tokens_for_which_the_model_has_no_row_are_left_out(folder, tmp_path):
  _write(folder, "added_tokens.json", {"<s>": 1, "<pad>": 2048})
  model = folder / "tokenizer.model"
  assert _prepared(folder, tmp_path, rows=2048) == model
  _write(folder, "added_tokens.json", IDS)
  ours = tokenizer_lib.load(str(_prepared(folder, tmp_path, rows=2049)))
  assert ours.vocab_size == 2049
  assert ours.encode("<think>") == [2048]
  assert ours.decode(ours.encode("</think>")) == "</think>"


def test_a_tokenizer_json_has_no_token_without_a_row(folder, tmp_path):
  """Gemma 3's text models have no row for `<image_soft_token>`."""
  _write(folder, "added_tokens.json", IDS)
  _write(folder, "tokenizer_config.json", _config(IDS))
  file = _prepared(folder, tmp_path)
  config = json.loads((file.parent / "tokenizer_config.json").read_text())
  extra = {"image_token": "</think>", "additional_special_tokens": ["</think>"]}
  _write(file.parent, "tokenizer_config.json", config | extra)
  assert vocabulary_files.prepare(file, tmp_path, rows=2050) == file
  made = vocabulary_files.prepare(file, tmp_path, rows=2049)
  ours = tokenizer_lib.load(str(made))
  assert ours.vocab_size == 2049 and ours.encode("<think>") == [2048]
  theirs = transformers.AutoTokenizer.from_pretrained(made.parent)
  assert len(theirs) == 2049 and "</think>" not in theirs.get_vocab()


def test_a_tokenizer_json_without_added_tokens_stays(tmp_path):
  model = tokenizers.models.BPE({"a": 0, "</s>": 1}, [])
  described = json.loads(tokenizers.Tokenizer(model).to_str())
  del described["added_tokens"]
  _write(tmp_path, "tokenizer.json", described)
  file = tmp_path / "tokenizer.json"
  assert vocabulary_files.prepare(file, tmp_path, rows=2) == file


@pytest.mark.parametrize("role", ["bos_token", "eos_token"])
def test_a_role_that_no_token_has_is_refused(folder, tmp_path, role):
  _write(folder, "added_tokens.json", IDS)
  _write(folder, "tokenizer_config.json", {role: "<|begin|>"})
  with pytest.raises(ValueError, match=rf"{role} must be one.*<.begin.>'"):
    _prepared(folder, tmp_path)


@pytest.mark.parametrize(
  "ids", [{"</s>": 2048}, {"<x>": 10**9}, {"<x>": -1}, {"<x>": "one"}, ["<x>"]]
)
def test_ids_that_cannot_be_are_refused(folder, tmp_path, ids):
  _write(folder, "added_tokens.json", ids)
  with pytest.raises(ValueError, match=r"[Aa]dded token|must be a JSON object"):
    _prepared(folder, tmp_path)


def _byte_level(folder, **config):
  """Writes vocab.json and merges.txt of 300 pieces and two added tokens."""
  (folder / "tokenizer.model").unlink()
  byte_level = tokenizers.pre_tokenizers.ByteLevel
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=["<|endoftext|>"],
    initial_alphabet=byte_level.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator([next(corpus.documents("fit"))[:5000]], trainer)
  tokenizer.model.save(str(folder))
  ids = {"<think>": 300, "</think>": 301}
  decoder = _config(ids)["added_tokens_decoder"]
  _write(
    folder, "tokenizer_config.json", {"added_tokens_decoder": decoder} | config
  )


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2TokenizerFast"])
def test_byte_level_files_are_read_as_by_transformers(folder, tmp_path, name):
  _byte_level(folder, tokenizer_class=name)
  path = _prepared(folder, tmp_path)
  ours = tokenizer_lib.load(str(path))
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  exported = transformers.AutoTokenizer.from_pretrained(path.parent)
  assert ours.eos_id == theirs.eos_token_id == exported.eos_token_id == 0
  for text in TEXTS:
    want = theirs(text)["input_ids"]
    assert ours.encode(text) == want == exported(text)["input_ids"]
    assert ours.decode(want) == text


@pytest.mark.parametrize(
  ("config", "says"),
  [
    ({"tokenizer_class": "BlenderbotTokenizer"}, "got tokenizer_class Blend"),
    ({}, "got tokenizer_class None"),
    (
      {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
      "no space",
    ),
    (
      {
        "tokenizer_class": "GPT2Tokenizer",
        "added_tokens_decoder": {"310": {"content": "<x>"}},
      },
      "got 310 for '<x>'",
    ),
  ],
)
def test_byte_level_files_of_others_are_refused(folder, tmp_path, config, says):
  _byte_level(folder, **config)
  with pytest.raises(ValueError, match=says):
    _prepared(folder, tmp_path)
