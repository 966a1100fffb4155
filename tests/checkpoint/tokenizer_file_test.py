"""The files beside a tokenizer are saved with it, and checked."""

import json
import shutil

from etils import epath
import numpy as np
import pytest
import tokenizers

from drope_jax.checkpoint import tokenizer_file
from drope_jax.data import corpus


@pytest.fixture
def model(tmp_path):
  """A sentencepiece model without other files: BOS is 1, EOS is 2."""
  shutil.copy(corpus.tokenizer_path(), tmp_path / "t.model")
  return epath.Path(tmp_path / "t.model")


def _say(model, name, **data):
  (model.parent / name).write_text(json.dumps(data))


def _collected(model):
  reference = tokenizer_file.reference(model)
  return tokenizer_file.collect(model, reference).contents


@pytest.mark.parametrize(
  ("said", "ends"), [(None, ()), (7, (7,)), ([2, 7], (2, 7)), ([], ())]
)
def test_generation_ends_at_each_id_of_its_config(model, said, ends):
  assert tokenizer_file.end_ids(model) == ()
  _say(model, "generation_config.json", eos_token_id=said)
  assert tokenizer_file.end_ids(model) == ends


@pytest.mark.parametrize("said", ["</s>", [2, "</s>"], 2.0, True, {}])
def test_end_ids_of_another_type_are_refused(model, said):
  _say(model, "generation_config.json", eos_token_id=said)
  with pytest.raises(ValueError, match="an id or a list of them, got"):
    tokenizer_file.end_ids(model)
  with pytest.raises(ValueError, match="an id or a list of them, got"):
    _collected(model)


def test_ids_missing_in_generation_config_come_from_config_json(model):
  _say(model, "config.json", eos_token_id=[2, 9], bos_token_id=5)
  _say(model, "generation_config.json", bos_token_id=1, temperature=0.6)
  got = json.loads(_collected(model)["generation_config.json"])
  assert got == {"bos_token_id": 1, "temperature": 0.6, "eos_token_id": [2, 9]}


def test_named_chat_templates_are_collected(model, tmp_path):
  folder = model.parent / "additional_chat_templates"
  folder.mkdir()
  (folder / "tool_use.jinja").write_text("T")
  reference = tokenizer_file.reference(model)
  out = epath.Path(tmp_path / "copy")
  out.mkdir()
  tokenizer_file.collect(model, reference).write(out)
  copied = out / "additional_chat_templates" / "tool_use.jinja"
  assert copied.read_text() == "T"


def test_bos_is_added_if_the_files_beside_say_so(model):
  assert not tokenizer_file.adds_bos(model), "as one of our own"
  _say(model, "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
  assert tokenizer_file.adds_bos(model)
  _say(model, "tokenizer_config.json", add_bos_token=False)
  assert not tokenizer_file.adds_bos(model)


@pytest.mark.parametrize("template", [True, False])
def test_a_tokenizer_json_decides_whether_bos_is_added(tmp_path, template):
  made = tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0}, []))
  made.add_special_tokens(["<s>"])
  if template:
    made.post_processor = tokenizers.processors.TemplateProcessing(
      single="<s> $A", special_tokens=[("<s>", 0)]
    )
  made.save(str(tmp_path / "tokenizer.json"))
  file = epath.Path(tmp_path / "tokenizer.json")
  assert tokenizer_file.adds_bos(file) is template


def test_bos_and_end_defaults_of_a_format_are_written_to_files(model, tmp_path):
  scratch = epath.Path(tmp_path / "scratch")
  scratch.mkdir()

  def written(adds_bos, ends_at_bos):
    return tokenizer_file.with_format_defaults(
      model, scratch, adds_bos=adds_bos, ends_at_bos=ends_at_bos
    )

  assert written(None, False) == model
  plain = written(True, False)
  assert plain.read_bytes() == model.read_bytes()
  config = json.loads((scratch / "tokenizer_config.json").read_text())
  assert config == {"add_bos_token": True}
  assert tokenizer_file.end_ids(plain) == ()
  assert tokenizer_file.end_ids(written(True, True)) == (2, 1)
  _say(model, "tokenizer_config.json", add_bos_token=False)
  assert written(True, True) == model, "the file's own word counts"


def test_files_beside_a_trimmed_tokenizer_have_its_ids(tmp_path):
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=40, special_tokens=["<s>", "</s>"], show_progress=False
  )
  made.train_from_iterator(["the whale and the ship and the sea"], trainer)
  made.add_special_tokens(["<turn>"])
  turn = made.token_to_id("<turn>")
  file = epath.Path(tmp_path / "tokenizer.json")
  made.save(str(file))
  decoder = {"1": {"content": "</s>"}, str(turn): {"content": "<turn>"}}
  _say(
    file,
    "tokenizer_config.json",
    added_tokens_decoder=decoder,
    eos_token="</s>",
  )
  _say(
    file, "generation_config.json", eos_token_id=[1, turn], pad_token_id=None
  )
  _say(file, "added_tokens.json", **{"<turn>": turn})
  (tmp_path / "tokenizer.model").write_text("the same in another form")
  scratch = epath.Path(tmp_path / "scratch")
  scratch.mkdir()
  trimmed, ids = tokenizer_file.trimmed(file, scratch, np.zeros(turn + 1), 25)
  assert trimmed == scratch / "tokenizer.json"
  assert ids[-1] == turn and len(ids) == 25
  assert {
    path.name: json.loads(path.read_text())
    for path in scratch.iterdir()
    if path != trimmed
  } == {
    "tokenizer_config.json": {
      "added_tokens_decoder": {
        "1": {"content": "</s>"},
        "24": {"content": "<turn>"},
      },
      "eos_token": "</s>",
    },
    "generation_config.json": {"eos_token_id": [1, 24], "pad_token_id": None},
    "added_tokens.json": {"<turn>": 24},
  }


def test_a_token_that_only_a_file_beside_names_is_refused(model, tmp_path):
  _say(model, "tokenizer_config.json", added_tokens_decoder={"99999": {}})
  counts_V = np.zeros(tokenizer_file.reference(model).vocab_size)
  with pytest.raises(ValueError, match="got the id 99999 there"):
    tokenizer_file.trimmed(model, epath.Path(tmp_path), counts_V, 1000)
