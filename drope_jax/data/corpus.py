"""The packaged corpus: State of the Union addresses and Moby Dick."""

from collections.abc import Iterator
import importlib.resources
import io
import re
from typing import Literal

import zstandard

Split = Literal["train", "fit", "test"]
SPLITS: tuple[Split, ...] = ("train", "fit", "test")

_PERIOD = 20
_HELD_OUT: dict[Split, int] = {"fit": 4, "test": 14}
_WORD_REPEATS = 800
_NEEDLE_WORDS = ("magic", "Magic", "word", "words", "Which", "goes", "go")


def documents(split: Split) -> Iterator[str]:
  """Yields the documents of one split, oldest address first, then Moby Dick.

  The 233 addresses (1790-2021) and 135 chapters are numbered in that order
  0..367; number i is held out for `fit` where i mod 20 is 4, for `test` where
  it is 14. Nothing else decides, so the split never changes:

    split  documents  characters   > 20,000 characters
    train        331  10.83 M      185
    fit           19   0.56 M       10
    test          18   0.56 M       11

  Fit every choice (a softmax scale, a learning rate) on `fit`; `test` is only
  for reported numbers. Each document ends in exactly one newline.

  Raises:
    ValueError: `split` is not one of `SPLITS`.
  """
  if split not in SPLITS:
    raise ValueError(
      f"The packaged corpus has the splits {', '.join(SPLITS)}, got "
      f"{split!r}. Name one of them."
    )
  for index, document in enumerate(_all_documents()):
    if _split_of(index) == split:
      yield document


def words() -> tuple[str, ...]:
  """Returns common nouns, each one piece (with its space) of the tokenizer.

  They are the vocabulary of needle sentences: a key or value that is a single
  token keeps retrieval apart from spelling.
  """
  text = (_assets() / "words.txt").read_text(encoding="utf-8")
  return tuple(text.split())


def tokenizer_path() -> str:
  """Returns the path of the packaged sentencepiece model of 2,048 pieces."""
  return str(_assets() / "tokenizer" / "drope2k.model")


def tokenizer_texts() -> Iterator[str]:
  """Yields what the packaged tokenizer was trained on.

  The train split, and each of `words()`, and the words of the needle sentences
  around them, often enough to become one piece. Without that 18 of the 256
  nouns would be; they cost 4% more tokens a character.
  """
  yield from documents("train")
  repeated = (*words(), *_NEEDLE_WORDS) * _WORD_REPEATS
  yield "\n".join(f" {word}" for word in repeated)


def _assets():
  return importlib.resources.files("drope_jax") / "assets"


def _split_of(index: int) -> Split:
  for split, residue in _HELD_OUT.items():
    if index % _PERIOD == residue:
      return split
  return "train"


def _all_documents() -> Iterator[str]:
  addresses = _read("sotu.txt.zst").split("\n<|doc|>\n")
  chapters = re.split(r"\n+(?=CHAPTER \d+\. )", _read("moby_dick.txt.zst"))
  for document in addresses + chapters:
    yield document.strip("\n") + "\n"


def _read(name: str) -> str:
  data = (_assets() / "corpus" / name).read_bytes()
  with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as stream:
    return stream.read().decode("utf-8")
