"""A tokenizer's file from GGUF metadata: tokenizer.json, or sentencepiece.

Byte-level BPE ("gpt2" there) needs the way that text is cut before it is
merged, which GGUF only names; names that are not here are refused. A
sentencepiece model ("llama" there) is written out piece by piece.
"""

from collections.abc import Mapping
import pathlib
import re
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as protos
import tokenizers

from drope_jax.checkpoint.formats import byte_level, fast_tokenizer
from drope_jax.data import json_object

# Of tokenizer.ggml.token_type, as of sentencepiece.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4

_ADDS_BOS = "tokenizer.ggml.add_bos_token"
_BOS, _EOS, _EOT, _PAD = (
  f"tokenizer.ggml.{role}_token_id" for role in ("bos", "eos", "eot", "padding")
)


def write(metadata: Mapping[str, Any], folder: pathlib.Path) -> pathlib.Path:
  """Returns the path of the tokenizer's file, written into `folder`.

  Beside it lie the chat templates, what ends, begins and pads a text, and
  whether BOS is put before one.

  Raises:
    ValueError: a kind of tokenizer that is not read here.
  """
  path = _write_pieces(metadata, folder)
  _write_templates(metadata, folder)
  json_object.write(folder / "generation_config.json", _generation(metadata))
  return path


def _write_pieces(
  metadata: Mapping[str, Any], folder: pathlib.Path
) -> pathlib.Path:
  kind = metadata.get("tokenizer.ggml.model")
  if kind == "llama":
    path = folder / "tokenizer.model"
    path.write_bytes(_sentencepiece(metadata).SerializeToString())
    config = {"add_bos_token": bool(metadata.get(_ADDS_BOS, True))}
    json_object.write(folder / fast_tokenizer.CONFIG, config)
    return path
  before = metadata.get("tokenizer.ggml.pre")
  if (
    kind != "gpt2"
    or not isinstance(before, str)
    or before not in byte_level.CUTS
  ):
    raise ValueError(
      "The tokenizer must be sentencepiece, or BPE that is cut as by "
      f"{', '.join(byte_level.CUTS)}, got {kind!r} cut by "
      f"{before!r}. Convert the Hugging Face folder instead."
    )
  pieces = metadata["tokenizer.ggml.tokens"]
  names = {
    role: pieces[metadata[key]]
    for role, key in (
      ("bos_token", _BOS),
      ("eos_token", _EOS),
      ("unk_token", "tokenizer.ggml.unknown_token_id"),
      ("pad_token", _PAD),
    )
    if key in metadata
  }
  # The default is llama.cpp's, for each way to cut.
  adds_bos = bool(metadata.get(_ADDS_BOS, before in ("llama-bpe", "tekken")))
  tokenizer = _byte_level(metadata, before)
  config = {"add_bos_token": adds_bos} | names
  return fast_tokenizer.write(tokenizer, config, folder)


def _write_templates(metadata: Mapping[str, Any], folder: pathlib.Path) -> None:
  """Writes the chat template, and those that have names of their own."""
  key = "tokenizer.chat_template"
  if key in metadata:
    (folder / "chat_template.jinja").write_text(metadata[key])
  for name in metadata.get(f"{key}s", ()):
    # It becomes a file's, which must not lie elsewhere.
    is_name = re.fullmatch(r"[\w-]+", str(name)) is not None
    if not is_name or f"{key}.{name}" not in metadata:
      raise ValueError(
        "A chat template needs a name of letters, digits, _ and -, and a text "
        f"under it, got {name!r} in {key}s. Convert the Hugging Face folder."
      )
    path = folder / "additional_chat_templates" / f"{name}.jinja"
    path.parent.mkdir(exist_ok=True)
    path.write_text(metadata[f"{key}.{name}"])


def _generation(metadata: Mapping[str, Any]) -> dict[str, Any]:
  """Returns generation_config.json's ids; a chat's turns end a text too."""
  ids = {
    role: metadata[key]
    for role, key in (("bos_token_id", _BOS), ("pad_token_id", _PAD))
    if key in metadata
  }
  ends = [metadata[key] for key in (_EOS, _EOT) if key in metadata]
  if ends:
    ends = list(dict.fromkeys(ends))
    ids["eos_token_id"] = ends if len(ends) > 1 else ends[0]
  return ids


def _byte_level(
  metadata: Mapping[str, Any], before: str
) -> tokenizers.Tokenizer:
  pieces = metadata["tokenizer.ggml.tokens"]
  merges = [
    tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]
  ]
  tokenizer = byte_level.build(
    {piece: i for i, piece in enumerate(pieces)},
    merges,
    byte_level.CUTS[before],
  )
  types = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(pieces)
  for piece, kind in zip(pieces, types, strict=True):
    if kind in (_CONTROL, _USER_DEFINED):
      added = tokenizers.AddedToken(
        piece, normalized=False, special=kind == _CONTROL
      )
      tokenizer.add_tokens([added])
  return tokenizer


def _sentencepiece(metadata: Mapping[str, Any]) -> protos.ModelProto:
  pieces = metadata["tokenizer.ggml.tokens"]
  scores = metadata["tokenizer.ggml.scores"]
  types = metadata["tokenizer.ggml.token_type"]
  model = protos.ModelProto()
  for piece, score, kind in zip(pieces, scores, types, strict=True):
    model.pieces.add(piece=piece, score=score, type=kind)
  trainer = model.trainer_spec
  trainer.model_type = protos.TrainerSpec.BPE
  trainer.vocab_size = len(pieces)
  trainer.byte_fallback = True
  trainer.unk_id = metadata.get("tokenizer.ggml.unknown_token_id", 0)
  trainer.bos_id = metadata.get(_BOS, 1)
  trainer.eos_id = metadata.get(_EOS, 2)
  # sentencepiece finds them by these names.
  for role in ("unk", "bos", "eos"):
    index = getattr(trainer, f"{role}_id")
    if 0 <= index < len(pieces):
      setattr(trainer, f"{role}_piece", pieces[index])
  normalizer = model.normalizer_spec
  normalizer.name = "identity"
  normalizer.add_dummy_prefix = metadata.get(
    "tokenizer.ggml.add_space_prefix", True
  )
  normalizer.remove_extra_whitespaces = False
  normalizer.escape_whitespaces = True
  return model
