"""Options for reading files of every format, and documents left out."""

import dataclasses
import io
from typing import Literal

# The key in JSON, and the column in parquet.
FIELD = "text"


@dataclasses.dataclass(frozen=True)
class Options:
  """How files are read.

  Attributes:
    separator: a line with only this text ends a document of a text file. None
      makes the whole file one document.
    encoding: of text and JSON that has no byte order mark.
    ending: the format of files whose names do not tell it, for example ".jsonl"
      or ".txt.gz". None refuses such a file, or leaves it out of a folder.
    skip_bad: leave out documents that cannot be read, which are else errors.
    max_document_bytes: limit of a document, and of everything that is read
      whole: a line of JSON, a JSON array, a compressed parquet file.
  """

  separator: str | None = None
  encoding: str = "utf-8"
  ending: str | None = None
  skip_bad: bool = False
  max_document_bytes: int = 1 << 30

  def __post_init__(self):
    try:
      io.TextIOWrapper(io.BytesIO(), encoding=self.encoding)
    except (LookupError, ValueError) as error:
      raise ValueError(
        "An encoding must be one that Python knows, for example utf-8, utf-16, "
        f"latin-1 or cp1252, got {self.encoding!r}. Name one of these."
      ) from error
    if self.max_document_bytes < 1:
      raise ValueError(
        "The limit for a document must be at least 1 byte, got "
        f"{self.max_document_bytes}. Raise it."
      )


DEFAULT = Options()


@dataclasses.dataclass(frozen=True)
class Skipped:
  """A document that is left out.

  Attributes:
    kind: "null" if its text is null; "bad" if it cannot be read.
    why: where it is, and what is wrong; "" for null.
  """

  kind: Literal["null", "bad"]
  why: str = ""


Document = str | Skipped


def reject(options: Options, why: str) -> Skipped:
  """Returns the mark of a bad document that is left out.

  Raises:
    ValueError: with the message `why`, unless bad documents are skipped.
  """
  if not options.skip_bad:
    raise ValueError(why)
  return Skipped("bad", why)


def too_large(options: Options, where: str) -> Skipped:
  """Returns, or raises, `reject` for a document above the size limit."""
  return reject(
    options,
    "A document, or the line or file that holds it, must be at most "
    f"{options.max_document_bytes:,} bytes, got more at {where}. Split it "
    "(`separator`), or raise the limit (`max_document_bytes`).",
  )


def decode(
  data: bytes | bytearray | None, encoding: str, where: str, options: Options
) -> Document:
  """Returns the text of `data`; `reject` if it does not decode.

  Args:
    data: the bytes; None if there are more than the limit.
    encoding: of the text.
    where: file and line, for messages.
    options: as the file is read.
  """
  if data is None:
    return too_large(options, where)
  try:
    return data.decode(encoding)
  except UnicodeError as error:
    return reject(
      options,
      f"Text must be {encoding.upper()}, got {error} in {where}. Give its "
      "encoding (`encoding`), or leave it out (`skip_bad`).",
    )
