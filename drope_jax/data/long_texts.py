"""Encoding long texts piece by piece, to the ids of the whole.

A tokenizer takes tens of bytes of memory for each of a text. A text is cut
where it makes no difference: after a line end, or before a space, if around
that place the ids of the two sides are those of both together. Only of a
unigram model may a few ids differ, in words of which two segmentations score
alike: sentencepiece sums the scores of the whole text in float32.
"""

from collections.abc import Iterator
import re

import numpy as np

from drope_jax.data import tokenizer as tokenizer_lib

# What is encoded at a time, characters, but for a last piece of up to twice it.
PIECE = 1 << 20

# Characters on each side that decide whether a cut makes a difference; a piece
# is encoded with those before it, whose ids are dropped.
_AROUND = 256

# Between words, where no vocabulary that splits at whitespace has a piece.
_PLACES = re.compile(r"(?<=\S\n)(?=\S)|(?<=\S\r\n)(?=\S)|(?<=\S)(?= \S)")
_TRIED = 64


def encode(text: str, tokenizer: tokenizer_lib.Tokenizer) -> np.ndarray:
  """Returns the ids of `tokenizer.encode`, as an array.

  A stretch without a place to cut is encoded as one.
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
      if _makes_no_difference(text, cut, tokenizer):
        break
    else:
      return
    yield cut
    start = cut


def _makes_no_difference(
  text: str, cut: int, tokenizer: tokenizer_lib.Tokenizer
) -> bool:
  before, after = text[cut - _AROUND : cut], text[cut : cut + _AROUND]
  both, first = map(tokenizer.encode, (before + after, before))
  return both[: len(first)] == first
