"""A sentencepiece model as a tokenizer.json that encodes alike.

What the tokenizers library cannot do as sentencepiece does is refused by name.
transformers' own conversions put a space before every text and join runs of
spaces, which not every model does.
Source: github.com/google/sentencepiece, src/normalizer.cc.
"""

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protos
import tokenizers

from drope_jax.checkpoint.formats import (
  sentencepiece_bpe,
  sentencepiece_unigram,
)

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # What sentencepiece writes for one.
_KINDS = {
  protos.TrainerSpec.UNIGRAM: sentencepiece_unigram,
  protos.TrainerSpec.BPE: sentencepiece_bpe,
  protos.TrainerSpec.CHAR: sentencepiece_bpe,
}


def convert(
  processor: sentencepiece.SentencePieceProcessor,
) -> tokenizers.Tokenizer:
  """Returns a tokenizer with the model's ids, which adds no BOS.

  It takes the name of a control symbol (`</s>`) in a text for that symbol,
  unless `encode_special_tokens` is set; sentencepiece takes it for text.

  Raises:
    ValueError: the tokenizers library has no such model.
  """
  model = protos.ModelProto()
  model.ParseFromString(processor.serialized_model_proto())
  kind = model.trainer_spec.model_type
  if kind not in _KINDS:
    raise ValueError(
      "A sentencepiece model must be BPE, unigram or of characters to become a "
      f"tokenizer.json, got {protos.TrainerSpec.ModelType.Name(kind)}: the "
      "tokenizers library does not join unknown words. Train one of these."
    )
  tokenizer = tokenizers.Tokenizer(_KINDS[kind].build(model))
  tokenizer.normalizer = _normalizer(model)
  if cuts := _KINDS[kind].cuts(model):
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(cuts)
  spec = model.normalizer_spec
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
  controls = [p.piece for p in model.pieces if p.type == p.CONTROL]
  tokenizer.add_special_tokens(controls)
  return tokenizer


def _normalizer(
  model: protos.ModelProto,
) -> tokenizers.normalizers.Normalizer:
  """Returns the model's own steps, in the order in which it takes them."""
  spec = model.normalizer_spec
  normalizers = tokenizers.normalizers
  steps = []
  if spec.precompiled_charsmap:
    steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
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
  elif spec.add_dummy_prefix:
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
  """Raises ValueError for a user-defined symbol that would be normalised.

  sentencepiece finds these in the text as it is.
  """
  for piece in model.pieces:
    if piece.type != piece.USER_DEFINED:
      continue
    if normalizer.normalize_str(piece.piece) != piece.piece:
      raise ValueError(
        "A user-defined symbol must be what the normalisation leaves of it, "
        f"got {piece.piece!r}: a tokenizer.json would not find it in a text. "
        "Train the model without it, or with another normalisation."
      )
