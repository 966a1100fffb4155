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


def documents(split: Split) -> Iterator[str]:
  """Yields the documents of one split, oldest address first, then Moby Dick.

  The 233 addresses (1790-2021) and the 135 chapters are numbered 0 to 367.
  Number i is in `fit` if i mod 20 is 4, in `test` if it is 14, else in `train`.
  Only the number decides, so the split never changes:

    split  documents  characters   > 20,000 characters
    train        331  10.83 M      185
    fit           19   0.56 M       10
    test          18   0.56 M       11

  Make every choice (a softmax scale, a learning rate) on `fit`; use `test` only
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


def tokenizer_path() -> str:
  """Returns the path of the packaged sentencepiece model of 2,048 pieces."""
  return str(_assets() / "tokenizer" / "drope2k.model")


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
