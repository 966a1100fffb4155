"""sentencepiece's unigram model as that of the tokenizers library.

sentencepiece finds normal pieces and user-defined symbols in a text. The
library finds every piece: control symbols, the unknown piece and bytes too,
where a text spells them (`</s>`, `<0x0A>`).
It adds scores in float64, sentencepiece in float32: of two ways to cut a text
whose scores are the same but for rounding they may choose differently.
Source: github.com/google/sentencepiece, src/unigram_model.cc.
"""

from collections.abc import Iterator
import re

from sentencepiece import sentencepiece_model_pb2 as protos
import tokenizers

from drope_jax.checkpoint.formats import character_class


def build(model: protos.ModelProto) -> tokenizers.models.Unigram:
  """Returns the model by itself, without what is done to the text before."""
  pieces = [p.piece for p in model.pieces]
  unknown = next(i for i, p in enumerate(model.pieces) if p.type == p.UNKNOWN)
  return tokenizers.models.Unigram(
    list(zip(pieces, _scores(model), strict=True)),
    unknown,
    model.trainer_spec.byte_fallback,
  )


def cuts(
  model: protos.ModelProto,
) -> list[tokenizers.pre_tokenizers.PreTokenizer]:
  """Returns what cuts unknown characters out of the text, if it must be.

  The library likes any piece better than an unknown character, and so would
  find `</s>` where `<` is one.

  Raises:
    ValueError: a piece that must not be found is of these characters alone.
  """
  known = {p.piece for p in model.pieces if _is_found(p) and len(p.piece) == 1}
  strange = [
    p.piece
    for p in model.pieces
    if not _is_found(p) and not known.issuperset(p.piece)
  ]
  if not strange:
    return []
  # A run of unknown characters is one token, unless bytes stand for them.
  fallback = model.trainer_spec.byte_fallback
  unknown = set("".join(strange)) - known
  runs = (
    f"[{character_class.inside(unknown)}]"
    if fallback
    else f"[^{character_class.inside(known)}]+"
  )
  for piece in strange:
    if known.isdisjoint(piece) and (not fallback or len(piece) == 1):
      raise ValueError(
        "A sentencepiece unigram model must know a character of each of its "
        f"symbols to become a tokenizer.json, got {piece!r}: the tokenizers "
        "library would find it in a text. Train the model on such text too."
      )
  symbols = sorted(
    (p.piece for p in model.pieces if p.type == p.USER_DEFINED), key=len
  )
  pattern = "|".join(
    [re.escape(symbol) for symbol in reversed(symbols) if unknown & set(symbol)]
    + [runs]
  )
  split = tokenizers.pre_tokenizers.Split
  return [split(tokenizers.Regex(pattern), "isolated")]


def _is_found(piece: protos.ModelProto.SentencePiece) -> bool:
  return piece.type in (piece.NORMAL, piece.USER_DEFINED)


def _scores(model: protos.ModelProto) -> Iterator[float]:
  """Yields the scores by which sentencepiece chooses."""
  normal = [p.score for p in model.pieces if p.type == p.NORMAL]
  # By sentencepiece 0.2.3, so that a symbol is better than any of its parts.
  best = max(0.1, *normal)
  symbols = {
    p.piece: len(p.piece.encode()) * best - 0.1
    for p in model.pieces
    if p.type == p.USER_DEFINED
  }
  # Worse than any way to spell the piece.
  longest = max(len(p.piece) for p in model.pieces)
  never = (longest + 1) * (min(0.0, *normal, *symbols.values()) - 1.0)
  for piece in model.pieces:
    if piece.type == piece.NORMAL:
      yield piece.score
    else:
      yield symbols.get(piece.piece, never)
