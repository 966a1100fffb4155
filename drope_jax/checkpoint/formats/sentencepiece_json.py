"""A sentencepiece model as a tokenizer.json that encodes alike.

What the tokenizers library cannot do as sentencepiece does is refused by name.
transformers' own conversions put a space before every text and join runs of
spaces, which not every model does.
Source: github.com/google/sentencepiece, src/normalizer.cc.
"""

from collections.abc import Mapping
import types

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protos
import tokenizers

from drope_jax.checkpoint.formats import (
  sentencepiece_bpe,
  sentencepiece_charsmap,
  sentencepiece_unigram,
)

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # What sentencepiece writes for one.
_PIECE = protos.ModelProto.SentencePiece
_MOST_HOLES = 10_000  # Ids between the pieces' and an added token's.
_KINDS = {
  protos.TrainerSpec.UNIGRAM: sentencepiece_unigram,
  protos.TrainerSpec.BPE: sentencepiece_bpe,
  protos.TrainerSpec.CHAR: sentencepiece_bpe,
}


def convert(
  processor: sentencepiece.SentencePieceProcessor,
  added: Mapping[int, tokenizers.AddedToken] = types.MappingProxyType({}),
  *,
  prefixed_once: bool = False,
) -> tokenizers.Tokenizer:
  """Returns a tokenizer with the model's ids, which adds no BOS.

  It takes the name of a control symbol (`</s>`) in a text for that symbol,
  unless `encode_special_tokens` is set; sentencepiece takes it for text.

  Args:
    processor: the model.
    added: tokens by id, found in a text before the model sees what is between
      them. An id may follow the model's, or give one of its pieces a name.
    prefixed_once: whether the space that the model puts in front, if it does,
      is put before the whole text, and not before each part between tokens.

  Raises:
    ValueError: the tokenizers library has no such model; an added token is a
      piece with another id.
  """
  model = protos.ModelProto()
  model.ParseFromString(processor.serialized_model_proto())
  _place(model, added)
  kind = model.trainer_spec.model_type
  if kind not in _KINDS:
    raise ValueError(
      "A sentencepiece model must be BPE, unigram or of characters to become a "
      f"tokenizer.json, got {protos.TrainerSpec.ModelType.Name(kind)}: the "
      "tokenizers library does not join unknown words. Train one of these."
    )
  tokenizer = tokenizers.Tokenizer(_KINDS[kind].build(model))
  spec = model.normalizer_spec
  once = spec.add_dummy_prefix and prefixed_once
  tokenizer.normalizer = _normalizer(model, prefixed=not once)
  cuts = _KINDS[kind].cuts(model)
  if once:
    space = tokenizers.pre_tokenizers.Metaspace(
      _SPACE, prepend_scheme="first", split=False
    )
    cuts.insert(0, space)
  if cuts:
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(cuts)
  begins = spec.add_dummy_prefix or spec.remove_extra_whitespaces
  decoders = tokenizers.decoders
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace(_SPACE, " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      *([decoders.Strip(" ", 1, 0)] if begins else []),
    ]
  )
  names = {token.content for token in added.values()}
  controls = [p.piece for p in model.pieces if p.type == p.CONTROL]
  tokenizer.add_special_tokens([name for name in controls if name not in names])
  tokenizer.add_tokens([added[i] for i in sorted(added)])
  return tokenizer


def _place(
  model: protos.ModelProto, added: Mapping[int, tokenizers.AddedToken]
) -> None:
  """Gives each added token a piece, which is found in no other text."""
  ids = {piece.piece: i for i, piece in enumerate(model.pieces)}
  for i in sorted(added):
    name = added[i].content
    if ids.get(name, i) != i or not 0 <= i <= len(ids) + _MOST_HOLES:
      raise ValueError(
        "An added token must have an id of its own, next to the pieces', got "
        f"{i} for {name!r} beside {len(ids)} pieces. Fetch the tokenizer's "
        "files again."
      )
    while len(model.pieces) <= i:
      hole = f"<|unused_{len(model.pieces)}|>"
      model.pieces.add(piece=hole, score=0.0, type=_PIECE.CONTROL)
    if model.pieces[i].piece != name:
      model.pieces[i].piece = name
      if model.pieces[i].type != _PIECE.UNKNOWN:
        model.pieces[i].type = _PIECE.CONTROL


def _normalizer(
  model: protos.ModelProto, *, prefixed: bool
) -> tokenizers.normalizers.Normalizer:
  """Returns the model's own steps, in the order in which it takes them.

  Args:
    model: the model.
    prefixed: whether the space in front, if the model puts one, is among them.
  """
  spec = model.normalizer_spec
  normalizers = tokenizers.normalizers
  steps = []
  if spec.precompiled_charsmap:
    symbols = [p.piece for p in model.pieces if p.type == p.USER_DEFINED]
    steps += sentencepiece_charsmap.normalizers(spec, symbols)
  if spec.remove_extra_whitespaces:
    steps += [_replace(r"\A +", ""), _replace(" {2,}", " ")]
  space = _SPACE if spec.escape_whitespaces else " "
  if spec.escape_whitespaces:
    steps.append(normalizers.Replace(" ", space))
  _require_kept(model, normalizers.Sequence(steps))
  added_at_end = added_at_start = ""
  if spec.add_dummy_prefix and model.trainer_spec.treat_whitespace_as_suffix:
    added_at_end = space
    steps.append(_replace(r"(?<=[\s\S])\z", space))
  elif spec.add_dummy_prefix and prefixed:
    added_at_start = space
  if spec.remove_extra_whitespaces:
    steps.append(_replace(rf"{space}+\z", added_at_end))
  if added_at_start:
    steps.append(normalizers.Prepend(added_at_start))
  return normalizers.Sequence(steps)


def _replace(pattern: str, text: str) -> tokenizers.normalizers.Normalizer:
  return tokenizers.normalizers.Replace(tokenizers.Regex(pattern), text)


def _require_kept(
  model: protos.ModelProto, normalizer: tokenizers.normalizers.Normalizer
) -> None:
  """Raises ValueError for a user-defined symbol that would be normalized.

  sentencepiece finds these in the text as it is.
  """
  for piece in model.pieces:
    if piece.type != piece.USER_DEFINED:
      continue
    if normalizer.normalize_str(piece.piece) != piece.piece:
      raise ValueError(
        "A user-defined symbol must be what the normalization leaves of it, "
        f"got {piece.piece!r}: a tokenizer.json would not find it in a text. "
        "Train the model without it, or with another normalization."
      )
