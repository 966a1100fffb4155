"""Encoding long texts in pieces, with the ids of the whole text.

A tokenizer needs tens of bytes of memory for each byte of text. So a long text
is cut after a line end, or before a space. A cut is made only where it does
not change the ids: the characters around it are encoded together and apart,
and both must agree. With a unigram model a few ids may differ, in words that
have two segmentations of equal score: sentencepiece sums the scores of the
whole text in float32.
"""

from collections.abc import Iterator
import re

import numpy as np

from drope_jax.data import tokenizer as tokenizer_lib

# Characters of one piece; the last piece has up to twice as many.
PIECE = 1 << 20

# Characters on each side by which a cut is checked. A piece is encoded with
# those before it; their ids are dropped.
_AROUND = 256

# Places between words: no vocabulary that splits at whitespace crosses them.
_PLACES = re.compile(r"(?<=\S\n)(?=\S)|(?<=\S\r\n)(?=\S)|(?<=\S)(?= \S)")
_TRIED = 64


def encode(text: str, tokenizer: tokenizer_lib.Tokenizer) -> np.ndarray:
  """Returns the ids of `tokenizer.encode`, as an int32 array.

  Text in which no cut is found is encoded in one piece.
  """
  cuts = [0, *_cuts(text, tokenizer), len(text)]
  pieces = []
  for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
    before = text[max(0, start - _AROUND) : start]
    (ids,) = tokenizer.encode_batch([before + text[start:stop]])
    ids = np.asarray(ids, np.int32)
    pieces.append(ids[len(tokenizer.encode(before)) :])
  return np.concatenate(pieces)


def _cuts(text: str, tokenizer: tokenizer_lib.Tokenizer) -> Iterator[int]:
  start = 0
  while len(text) - start > 2 * PIECE:
    places = _PLACES.finditer(text, start + PIECE, len(text) - _AROUND)
    for _, place in zip(range(_TRIED), places, strict=False):
      cut = place.start()
      if _keeps_ids(text, cut, tokenizer):
        break
    else:
      return
    yield cut
    start = cut


def _keeps_ids(text: str, cut: int, tokenizer: tokenizer_lib.Tokenizer) -> bool:
  """Returns whether cutting `text` at `cut` leaves the ids as they are."""
  before, after = text[cut - _AROUND : cut], text[cut : cut + _AROUND]
  both, first = map(tokenizer.encode, (before + after, before))
  return both[: len(first)] == first
