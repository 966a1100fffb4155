"""sentencepiece's table of normalized characters, for the tokenizers library.

sentencepiece replaces the longest sequence of characters that its table has,
as e and an acute accent by é. The library's `Precompiled` looks at grapheme
clusters: of a short one it replaces all by what the table has for its first
characters, in a long one each character by itself. Here it sees characters
one by one, and those of a sequence are composed around it.
Source: github.com/google/sentencepiece, src/normalizer.cc and builder.cc.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
import re
import unicodedata

from sentencepiece import sentencepiece_model_pb2 as protos
import tokenizers

from drope_jax.checkpoint.formats import character_class

COMPOSED = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")
"""sentencepiece's own tables, whose sequences are Unicode's."""

# Code points without a character, which split grapheme clusters.
_KEPT_APART, _APART_FOR_NOW = "\ufff0", "\ufff1"

# What continues a grapheme cluster, beside the last characters of sequences.
_CONTINUES = r"\p{M}\x{200c}\x{200d}\x{e33}\x{eb3}\x{1f3fb}-\x{1f3ff}"


def normalizers(
  spec: protos.NormalizerSpec, symbols: Sequence[str]
) -> list[tokenizers.normalizers.Normalizer]:
  """Returns what does as the table of `spec` does.

  Sequences of a table that is not one of COMPOSED are left to the library.

  Args:
    spec: with a table.
    symbols: user-defined, with which nothing is composed.
  """
  library = tokenizers.normalizers
  precompiled = library.Precompiled(spec.precompiled_charsmap)
  if spec.name not in COMPOSED:
    return [precompiled]
  joined = list(_joined())
  lasts = "".join(last for _, last in joined)
  any_joined = "|".join(f"(?<={before})[{last}]" for before, last in joined)
  # Not at the start, where the library cannot insert. What stands first in a
  # pattern is what most characters fail on.
  apart = rf"(?=[{_CONTINUES}{lasts}])(?!\A|{any_joined})|(?=\n)(?<=\r)"
  if symbols:
    apart += f"|(?=[{lasts}])(?<={'|'.join(map(re.escape, symbols))})"
  within = f"(?=[{lasts}])(?={any_joined})"

  def insert(pattern: str, text: str) -> tokenizers.normalizers.Normalizer:
    return library.Replace(tokenizers.Regex(pattern), text)

  return [
    insert(apart, _KEPT_APART),
    library.NFC(),
    # Of variants: half-width kana and their marks, for one.
    insert(within, _APART_FOR_NOW),
    precompiled,
    library.Replace(_APART_FOR_NOW, ""),
    library.NFC(),
    library.Replace(_KEPT_APART, ""),
  ]


def _joined() -> Iterator[tuple[str, str]]:
  """Yields what stands before, and which characters end, Unicode's sequences.

  Each character of a fully decomposed one may be a variant (full-width, ...).
  """
  sequences, variants = set(), collections.defaultdict(set)
  for character in map(chr, range(0x80, 0x30000)):
    if not unicodedata.decomposition(character):
      continue
    parts = unicodedata.normalize("NFKD", character)
    if len(parts) == 1:
      variants[parts].add(character)
    elif len(unicodedata.normalize("NFKC", character)) == 1:
      sequences.add(parts)

  def one_of(characters: Iterable[str]) -> str:
    everyone = {v for c in characters for v in (c, *variants[c])}
    return character_class.inside(everyone)

  firsts = collections.defaultdict(set)
  for sequence in sequences:
    firsts[tuple(sequence[1:-1]), sequence[-1]].add(sequence[0])
  lasts = collections.defaultdict(set)
  for (between, last), before in firsts.items():
    lasts[frozenset(before), between].add(last)
  for (before, between), ends in sorted(lasts.items(), key=str):
    classes = [f"[{one_of(each)}]" for each in (before, *between)]
    yield "".join(classes), one_of(ends)
  # Hangul's syllables, of which no table of Unicode lists the parts.
  leads, vowels, tails = (
    one_of([chr(code) for code in range(*span)])
    for span in ((0x1100, 0x1113), (0x1161, 0x1176), (0x11A8, 0x11C3))
  )
  yield f"[{leads}]", vowels
  yield f"[{leads}][{vowels}]", tails
