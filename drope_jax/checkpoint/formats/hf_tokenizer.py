"""A checkpoint's tokenizer as transformers looks for it."""

import pathlib
from typing import Any

from etils import epath
import sentencepiece

from drope_jax.checkpoint import tokenizer_file
from drope_jax.checkpoint.formats import (
  fast_tokenizer,
  sentencepiece_json,
)
from drope_jax.data import json_object
from drope_jax.data import tokenizer as tokenizer_lib

_JSON, _CONFIG = fast_tokenizer.FILENAME, fast_tokenizer.CONFIG
_GENERATION = "generation_config.json"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def copy(tokenizer: epath.Path, folder: pathlib.Path) -> dict[str, Any]:
  """Writes a tokenizer's files into `folder`; returns config.json's fields.

  What came with the tokenizer goes with it; what transformers needs besides is
  made.
  """
  # Not all of the folder: Orbax adds files of its own to a training's save.
  kept = tokenizer_file.collect(tokenizer, tokenizer_file.reference(tokenizer))
  kept.write(epath.Path(folder))
  loaded = tokenizer_lib.load(str(tokenizer))
  ids = {"eos_token_id": loaded.eos_id}
  if loaded.bos_id is not None:
    ids["bos_token_id"] = loaded.bos_id
  if tokenizer.suffix == ".model":
    # The one name that transformers knows a sentencepiece model by.
    named = (folder / tokenizer.name).rename(folder / "tokenizer.model")
    config = json_object.read_if_there(folder / _CONFIG)
    if not (folder / _JSON).exists() and "tokenizer_class" not in config:
      model = sentencepiece.SentencePieceProcessor(str(named))
      made = sentencepiece_json.convert(model)
      fast_tokenizer.write(made, _config(model) | config, folder)
  if config := json_object.read_if_there(folder / _CONFIG):
    json_object.write(folder / _CONFIG, _for_both(config))
  generation = json_object.read_if_there(folder / _GENERATION) or ids
  json_object.write(folder / _GENERATION, generation)
  given = {role: generation.get(role) for role in _IDS}
  return ids | {role: i for role, i in given.items() if i is not None}


def lift_limits(
  folder: pathlib.Path, trained_tokens: int, context_tokens: int
) -> None:
  """Raises limits in `folder`'s files that only the trained context set.

  Where transformers is asked to truncate, it cuts a text at model_max_length;
  without max_new_tokens it generates up to max_length.

  Args:
    folder: where `copy` has written.
    trained_tokens: the context; a lower limit is kept.
    context_tokens: what clients may read.
  """
  for name, limit in (
    (_CONFIG, "model_max_length"),
    (_GENERATION, "max_length"),
  ):
    said = json_object.read_if_there(folder / name)
    if trained_tokens <= (said.get(limit) or 0) < context_tokens:
      json_object.write(folder / name, said | {limit: context_tokens})


def adds_bos(folder: pathlib.Path) -> bool:
  """Returns whether transformers puts BOS before a text with `folder`'s."""
  file = epath.Path(folder) / _JSON
  return tokenizer_file.adds_bos(
    file if file.exists() else file.with_suffix(".model")
  )


def _config(model: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
  special = {
    "bos_token": model.bos_id(),
    "eos_token": model.eos_id(),
    "unk_token": model.unk_id(),
  }
  names = {role: model.id_to_piece(i) for role, i in special.items() if i >= 0}
  return {
    "clean_up_tokenization_spaces": False,
    # Said, since llama.cpp adds BOS where nothing says that it does not.
    "add_bos_token": False,
  } | names


def _for_both(config: dict[str, Any]) -> dict[str, Any]:
  """Returns tokenizer_config.json as transformers 4 reads it too.

  transformers 5 has another name for the class of a tokenizer.json, and for
  the list of special tokens beyond BOS, EOS and the like; it reads both.
  """
  config = dict(config)
  if config.get("tokenizer_class") == "TokenizersBackend":
    config["tokenizer_class"] = fast_tokenizer.CLASS
  if isinstance(config.get("extra_special_tokens"), list):
    config["additional_special_tokens"] = config.pop("extra_special_tokens")
  return config
