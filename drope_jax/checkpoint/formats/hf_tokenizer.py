"""A checkpoint's tokenizer as transformers looks for it."""

import json
import pathlib
from typing import Any

from etils import epath
import sentencepiece

from drope_jax.checkpoint.formats import sentencepiece_json
from drope_jax.data import tokenizer as tokenizers

_JSON = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_GENERATION = "generation_config.json"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def copy(tokenizer: epath.Path, folder: pathlib.Path) -> dict[str, Any]:
  """Writes a tokenizer's files into `folder`; returns config.json's fields.

  What came with the tokenizer goes with it, as it was; what transformers needs
  besides is made.
  """
  for file in tokenizer.parent.iterdir():
    (folder / file.name).write_bytes(file.read_bytes())
  loaded = tokenizers.load(str(tokenizer))
  ids = {"eos_token_id": loaded.eos_id}
  if loaded.bos_id is not None:
    ids["bos_token_id"] = loaded.bos_id
  if tokenizer.suffix == ".model":
    # The one name that transformers knows a sentencepiece model by.
    named = (folder / tokenizer.name).rename(folder / "tokenizer.model")
    model = sentencepiece.SentencePieceProcessor(str(named))
    if not (folder / _JSON).exists() and not (folder / _CONFIG).exists():
      sentencepiece_json.convert(model).save(str(folder / _JSON))
      _write_new(folder / _CONFIG, _config(model))
  _write_new(folder / _GENERATION, ids)
  generation = json.loads((folder / _GENERATION).read_text())
  given = {role: generation.get(role) for role in _IDS}
  return ids | {role: i for role, i in given.items() if i is not None}


def _config(model: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
  special = {
    "bos_token": model.bos_id(),
    "eos_token": model.eos_id(),
    "unk_token": model.unk_id(),
  }
  names = {role: model.id_to_piece(i) for role, i in special.items() if i >= 0}
  return {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
  } | names


def _write_new(path: pathlib.Path, data: dict[str, Any]) -> None:
  if not path.exists():
    path.write_text(json.dumps(data, indent=2) + "\n")
