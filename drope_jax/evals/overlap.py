"""Whether text to fit on and text to test on overlap, which is refused.

Documents are compared by shingles, the hashes of every run of some words
(Broder 1997, "On the resemblance and containment of documents"). So a passage
is found at any place, and with other punctuation.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import re
import unicodedata
import zlib

import numpy as np

SHINGLE_WORDS = 20
"""Words of a run. Two writers hardly ever write the same 20 words."""

SHARED_WORDS = 100
"""Words in common from which two documents overlap; fewer are a quotation."""

_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Document:
  """A text, and the name of its source as the user gave it."""

  source: str
  text: str


def require_disjoint(test: Sequence[Document], fit: Sequence[Document]) -> None:
  """Checks that no document of `test` overlaps one of `fit`.

  Two overlap where `SHARED_WORDS` words of one, or all of its words if it has
  fewer, are also in the other, in runs of `SHINGLE_WORDS` words or more. Case,
  punctuation and spaces do not count. Documents shorter than a run are not
  checked. The time is that of a sort of the words.

  Raises:
    ValueError: naming the first pair that overlaps, and what it shares.
  """
  shingles = {
    side: [_shingles(document.text) for document in documents]
    for side, documents in (("test", test), ("fit", fit))
  }
  for documents, others, own, theirs in (
    (test, fit, shingles["test"], shingles["fit"]),
    (fit, test, shingles["fit"], shingles["test"]),
  ):
    index = np.concatenate([np.zeros(0, np.uint64), *theirs])
    where = np.repeat(np.arange(len(theirs)), [len(one) for one in theirs])
    order = np.argsort(index, kind="stable")
    index, where = index[order], where[order]
    for document, hashes in zip(documents, own, strict=True):
      place = np.searchsorted(index, hashes)
      found = place < len(index)
      found[found] = index[place[found]] == hashes[found]
      shared = _covered(found)
      if found.any() and shared >= min(
        SHARED_WORDS, len(hashes) + SHINGLE_WORDS - 1
      ):
        counts = np.bincount(where[place[found]])
        others_too = " and others" if np.count_nonzero(counts) > 1 else ""
        raise ValueError(
          "Text to test on and text to fit on must not overlap, or the softmax "
          f"scale is fitted on what is tested; got {shared:,} words of "
          f"{document.source} that stand in {others[counts.argmax()].source}"
          f"{others_too} too, from "
          f"{_words_from(document.text, int(found.argmax()))!r} on. Take them "
          "out of one."
        )


def _words(text: str) -> Iterable[str]:
  normalized = unicodedata.normalize("NFKC", text).casefold()
  return (match[0] for match in re.finditer(r"\w+", normalized))


def _shingles(text: str) -> np.ndarray:
  """Returns the hash of the run from each word on, uint64."""
  words = np.fromiter(
    (zlib.crc32(word.encode()) for word in _words(text)), np.uint64
  )
  count = max(len(words) - SHINGLE_WORDS + 1, 0)
  hashes = np.zeros(count, np.uint64)
  for i in range(SHINGLE_WORDS):  # Horner's rule, modulo 2^64.
    hashes = hashes * _BASE + words[i : i + count]
  return hashes


def _covered(found: np.ndarray) -> int:
  """Returns how many words lie in the runs that were found."""
  starts = np.flatnonzero(found)
  gaps = np.minimum(np.diff(starts), SHINGLE_WORDS)
  return int(gaps.sum()) + SHINGLE_WORDS * bool(len(starts))


def _words_from(text: str, start: int) -> str:
  return " ".join(itertools.islice(_words(text), start, start + 6))
