"""A tokenizer.json of the files that transformers kept before it had one.

These are added tokens beside a sentencepiece model, which have ids that the
model does not know, and vocab.json with merges.txt, byte-level BPE. Source:
transformers 5, tokenization_utils_base.py and tokenization_utils_tokenizers.py.
"""

from collections.abc import Collection, Mapping
import pathlib
import shutil
import types
from typing import Any, NamedTuple

import sentencepiece
import tokenizers

from drope_jax.checkpoint.formats import (
  byte_level,
  fast_tokenizer,
  sentencepiece_json,
)
from drope_jax.data import json_object
from drope_jax.data import tokenizer as tokenizer_lib

VOCABULARY = "vocab.json"
"""Of byte-level BPE, with merges.txt beside."""

_NAMES = "special_tokens_map.json"
_ADDED = "added_tokens.json"
_NAMING = (fast_tokenizer.CONFIG, _NAMES, _ADDED)
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
# What else lies beside a tokenizer, and stays true of the tokenizer.json.
_KEPT = ("*.jinja", "config.json", "generation_config.json")
_TEMPLATES = "additional_chat_templates"
# What tokenizer_config.json says of the files, and would be done twice.
_MADE = (
  *("added_tokens_decoder", "add_prefix_space", "legacy", "sp_model_kwargs"),
  *("spaces_between_special_tokens", "auto_map"),
)


class _Class(NamedTuple):
  """A byte-level tokenizer of transformers': how it cuts, and its defaults."""

  cuts: str
  names: Mapping[str, str]


_END = "<|endoftext|>"
_CLASSES: Mapping[str, _Class] = types.MappingProxyType(
  {
    "GPT2Tokenizer": _Class("gpt-2", {"bos_token": _END, "eos_token": _END}),
    "Qwen2Tokenizer": _Class("qwen2", {"eos_token": _END, "pad_token": _END}),
    "CohereTokenizer": _Class(
      "command-r",
      {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"},
    ),
  }
)
_BY_MODEL = {"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}


def prepare(
  file: pathlib.Path, scratch: pathlib.Path, *, rows: int
) -> pathlib.Path:
  """Returns a tokenizer's file, or a tokenizer.json that is made of it.

  Leaves out added tokens for which the model has no row: Llama 2's `<pad>`, of
  id 32000, and Gemma 3's `<image_soft_token>`.

  Args:
    file: a tokenizer.json or a sentencepiece model, which are returned as they
      are where no such token or token of others is there; or VOCABULARY.
    scratch: where what is made goes, with what lies beside the file.
    rows: of the model's embedding.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, an added token's id is another's, BOS or EOS
      is no token, or the tokenizer's class is not read here.
  """
  folder = file.parent
  config = json_object.read_if_there(folder / fast_tokenizer.CONFIG)
  if file.suffix == ".json" and file.name != VOCABULARY:
    return _with_rows(file, scratch / "tokenizer", rows)
  added = _added(folder, config)
  left_out = {added.pop(i).content for i in [*added] if i >= rows}
  if file.name == VOCABULARY:
    tokenizer, names = _byte_level(folder, config, added, left_out)
    adds_bos = False
  elif file.suffix == ".model" and added:
    tokenizer_lib.load(str(file))  # Says what is wrong with it.
    model = sentencepiece.SentencePieceProcessor(str(file))
    if all(_is_own(model, i, token) for i, token in added.items()):
      return file
    tokenizer = sentencepiece_json.convert(
      model, added, prefixed_once=_is_prefixed_once(config)
    )
    pieces = (model.bos_id(), model.eos_id(), model.unk_id(), model.pad_id())
    names = {
      role: model.id_to_piece(i)
      for role, i in zip(_ROLES, pieces, strict=True)
      if i >= 0
    }
    adds_bos = True
  else:
    return file
  names = _without(names | _named(folder, config), left_out)
  for role in _ROLES[:2]:
    if role in names and tokenizer.token_to_id(names[role]) is None:
      raise ValueError(
        f"{role} must be one of the tokenizer's tokens, got {names[role]!r} in "
        f"{folder}. Correct its {fast_tokenizer.CONFIG}."
      )
  config = {
    "clean_up_tokenization_spaces": False,
    "add_bos_token": adds_bos,
    **_without(
      {key: value for key, value in config.items() if key not in _MADE},
      left_out,
    ),
    **names,
  }
  made = scratch / "tokenizer"
  made.mkdir()
  _copy_beside(folder, made)
  return fast_tokenizer.write(tokenizer, config, made)


def _with_rows(
  file: pathlib.Path, made: pathlib.Path, rows: int
) -> pathlib.Path:
  """Returns a tokenizer.json without added tokens that have no row."""
  tokenizer_lib.load(str(file))  # Says what is wrong with it.
  left_out = {
    token["content"]
    for token in json_object.read(file).get("added_tokens") or ()
    if token["id"] >= rows
  }
  if not left_out:
    return file
  made.mkdir()
  _copy_beside(file.parent, made)
  for path in (file, *map(file.with_name, _NAMING)):
    if path.exists():
      kept = _without(json_object.read(path), left_out)
      json_object.write(made / path.name, kept)
  return made / file.name


def _without(described: Any, left_out: Collection[str]) -> Any:
  """Returns an object of JSON without what names one of some tokens."""

  def names_one(value: Any) -> bool:
    content = value.get("content") if isinstance(value, dict) else value
    return isinstance(content, str) and content in left_out

  if isinstance(described, dict):
    return {
      key: _without(value, left_out)
      for key, value in described.items()
      if key not in left_out and not names_one(value)
    }
  if isinstance(described, list):
    return [_without(x, left_out) for x in described if not names_one(x)]
  return described


def _added(
  folder: pathlib.Path, config: Mapping[str, Any]
) -> dict[int, tokenizers.AddedToken]:
  """Returns the added tokens by id; tokenizer_config.json's, if it has any."""
  decoder = config.get("added_tokens_decoder")
  try:
    if decoder is not None:
      return {
        int(i): tokenizers.AddedToken(
          token["content"],
          special=token.get("special", False),
          lstrip=token.get("lstrip", False),
          rstrip=token.get("rstrip", False),
          single_word=token.get("single_word", False),
          # Found in the text as it is, before a model adds a space to it.
          normalized=False,
        )
        for i, token in decoder.items()
      }
    ids = json_object.read_if_there(folder / _ADDED)
    special = set(_named(folder, config).values())
    return {
      int(i): tokenizers.AddedToken(
        content, special=content in special, normalized=False
      )
      for content, i in ids.items()
    }
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"Added tokens must be texts with whole numbers for ids, got others in "
      f"{folder} ({error!r}). Fetch its {fast_tokenizer.CONFIG} and {_ADDED} "
      "again."
    ) from error


def _is_own(
  model: sentencepiece.SentencePieceProcessor,
  i: int,
  token: tokenizers.AddedToken,
) -> bool:
  """Returns whether a token is one of the model's own symbols, said again."""
  if not 0 <= i < model.vocab_size() or model.id_to_piece(i) != token.content:
    return False
  return model.is_control(i) or model.is_unknown(i)


def _is_prefixed_once(config: Mapping[str, Any]) -> bool:
  """Returns whether a text gets its space in front once, as in transformers 5.

  Otherwise each stretch between added tokens gets one.
  """
  is_llama = str(config.get("tokenizer_class")).startswith("LlamaTokenizer")
  return not config.get("legacy", not is_llama)


def _byte_level(
  folder: pathlib.Path,
  config: Mapping[str, Any],
  added: Mapping[int, tokenizers.AddedToken],
  left_out: Collection[str],
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
  """Returns the tokenizer and its class's names for special tokens."""
  model_type = json_object.read_if_there(folder / "config.json").get(
    "model_type"
  )
  name = config.get("tokenizer_class") or _BY_MODEL.get(str(model_type))
  name = str(name).removesuffix("Fast")
  if name not in _CLASSES:
    raise ValueError(
      f"{folder / VOCABULARY} must be of {', '.join(_CLASSES)}, got "
      f"tokenizer_class {name}. Save the tokenizer with transformers "
      "5, which writes a tokenizer.json."
    )
  if config.get("add_prefix_space"):
    raise ValueError(
      f"{folder / VOCABULARY} must be of a tokenizer that puts no space before "
      "a text, got add_prefix_space. Save it with transformers 5, which writes "
      "a tokenizer.json."
    )
  paths = [str(folder / name) for name in (VOCABULARY, "merges.txt")]
  try:
    ids, merges = tokenizers.models.BPE.read_file(*paths)
    tokenizer = byte_level.build(
      ids, merges, byte_level.CUTS[_CLASSES[name].cuts]
    )
  except Exception as error:  # tokenizers raises bare Exception.
    raise ValueError(
      f"{folder} must have {VOCABULARY}, of pieces and ids, and merges.txt, of "
      f"pairs of these pieces, got {error}. Fetch both again."
    ) from error
  tokenizer.add_tokens([added[i] for i in sorted(added)])
  names = dict(_CLASSES[name].names)
  others = {*names.values(), *_named(folder, config).values()}
  tokenizer.add_special_tokens(
    sorted(others - {token.content for token in added.values()} - {*left_out})
  )
  for i, token in added.items():
    if (got := tokenizer.token_to_id(token.content)) != i:
      raise ValueError(
        "Added tokens must have the pieces' ids, or follow them without gaps, "
        f"got {i} for {token.content!r} in {folder}, which would be {got}. "
        "Fetch the folder again."
      )
  return tokenizer, names


def _named(folder: pathlib.Path, config: Mapping[str, Any]) -> dict[str, str]:
  """Returns the names of the special tokens that have a role."""
  said = [config, json_object.read_if_there(folder / _NAMES)]
  names: dict[str, str] = {}
  for role in _ROLES:
    for object_ in said:
      if name := tokenizer_lib.special_name(object_, role):
        names.setdefault(role, name)
  return names


def _copy_beside(folder: pathlib.Path, made: pathlib.Path) -> None:
  for pattern in _KEPT:
    for file in folder.glob(pattern):
      shutil.copyfile(file, made / file.name)
  if (folder / _TEMPLATES).is_dir():
    shutil.copytree(folder / _TEMPLATES, made / _TEMPLATES)
