"""sentencepiece's BPE and character models as BPE of the tokenizers library.

Source: github.com/google/sentencepiece, src/bpe_model.cc and char_model.cc.
"""

import collections
from collections.abc import Mapping
import re

from sentencepiece import sentencepiece_model_pb2 as protos
import tokenizers


def build(model: protos.ModelProto) -> tokenizers.models.BPE:
  """Returns the model by itself, without what is done to the text before.

  Raises:
    ValueError: an order of merges that the library cannot keep.
  """
  pieces = [p.piece for p in model.pieces]
  by_characters = model.trainer_spec.model_type == protos.TrainerSpec.CHAR
  return tokenizers.models.BPE(
    {piece: i for i, piece in enumerate(pieces)},
    [] if by_characters else _merges(model),
    unk_token=next(p.piece for p in model.pieces if p.type == p.UNKNOWN),
    fuse_unk=True,
    byte_fallback=model.trainer_spec.byte_fallback,
    # A user-defined symbol is not merged: it is a piece when it is cut out.
    ignore_merges=bool(_symbols(model)),
  )


def cuts(
  model: protos.ModelProto,
) -> list[tokenizers.pre_tokenizers.PreTokenizer]:
  """Returns what cuts user-defined symbols out of the text, if there are any.

  Between them may be left exactly the name of a piece that is not made by
  merges (`</s>`, `<0x0A>`), which the library would take for that piece.
  It is cut once more, where its own tokens meet, so that no merge is lost.

  Raises:
    ValueError: there is no such place.
  """
  symbols = sorted(_symbols(model), key=len, reverse=True)
  if not symbols:
    return []
  merged = build(model)
  merged.ignore_merges = False
  pieces = {p.piece for p in model.pieces}
  tokens = {
    piece: merged.tokenize(piece) for piece in pieces.difference(symbols)
  }
  halves = []
  for piece, made_of in tokens.items():
    if len(made_of) == 1:
      continue
    places = [token.offsets[0] for token in made_of[1:]]
    fit = [
      at
      for at in places
      if all(
        len(tokens.get(half, [half])) == 1 for half in (piece[:at], piece[at:])
      )
    ]
    if not fit:
      raise ValueError(
        "A sentencepiece model with user-defined symbols must have pieces that "
        f"its merges make, got {piece!r}, which the tokenizers library cannot "
        "tell from text. Train the model without these symbols."
      )
    left, right = re.escape(piece[: fit[0]]), re.escape(piece[fit[0] :])
    halves.append(rf"{left}(?={right}\z)")
  split, isolated = tokenizers.pre_tokenizers.Split, "isolated"
  found = [split(_any(map(re.escape, symbols)), isolated)]
  if halves:
    found.append(
      split(tokenizers.Regex(rf"\A(?:{'|'.join(halves)})"), isolated)
    )
  return found


def _any(patterns) -> tokenizers.Regex:
  return tokenizers.Regex("|".join(patterns))


def _symbols(model: protos.ModelProto) -> list[str]:
  return [p.piece for p in model.pieces if p.type == p.USER_DEFINED]


def _merges(model: protos.ModelProto) -> list[tuple[str, str]]:
  """Returns every way to make a piece of two others, best score first."""
  ids = {p.piece: i for i, p in enumerate(model.pieces)}
  frozen = set(_symbols(model))
  found = []
  for piece in model.pieces:
    if piece.type not in (piece.NORMAL, piece.UNUSED):
      continue
    name = piece.piece
    for cut in range(1, len(name)):
      left, right = name[:cut], name[cut:]
      if left in frozen or right in frozen:
        continue
      if left in ids and right in ids:
        if piece.type == piece.UNUSED:
          raise _inexact(f"{name!r}, an unused piece that merges make")
        order = (-piece.score, -len(left), ids[left], ids[right])
        found.append((order, (left, right)))
      elif min(len(left), len(right)) == 1 and all(
        half in ids or len(half) == 1 for half in (left, right)
      ):
        raise _inexact(f"{name!r}, made of a character that is no piece")
  found.sort()
  _require_order(found)
  return [pair for _, pair in found]


def _require_order(
  merges: list[tuple[tuple[float, int, int, int], tuple[str, str]]],
) -> None:
  """Raises ValueError where sentencepiece takes the leftmost of two pieces.

  So it does with pieces of one score; the library puts one before the other.
  Runs of one character, as Llama's of spaces, grow from the left in both.
  """
  made_with: Mapping[tuple, tuple[set, set]]
  made_with = collections.defaultdict(lambda: (set(), set()))
  for (score, *_), (left, right) in merges:
    made_with[score, left][0].add(left + right)
    made_with[score, right][1].add(left + right)
  for as_left, as_right in made_with.values():
    pieces = sorted(as_left | as_right)
    is_run = len(set("".join(pieces))) == 1
    if as_left and as_right and len(pieces) > 1 and not is_run:
      raise _inexact(f"{pieces[0]!r} and {pieces[1]!r} of the same score")


def _inexact(what: str) -> ValueError:
  return ValueError(
    "A sentencepiece BPE model must have pieces of different scores that are "
    "made of other pieces alone, to become a tokenizer.json that encodes "
    f"alike, got {what}. Put the model's own tokenizer.json beside it."
  )
