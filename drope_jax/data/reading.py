"""How files are read, whatever their format, and what becomes of bad ones."""

import dataclasses
import io
from typing import Literal

# Of JSON, and the column of parquet.
FIELD = "text"


@dataclasses.dataclass(frozen=True)
class Options:
  """How files are read.

  Attributes:
    separator: a line that holds only this ends a document of a text file; None
      makes the whole file one document.
    encoding: of text and JSON without a byte order mark, which itself tells.
    ending: what the name of a file stands for that tells no format, such as
      ".jsonl" or ".txt.gz"; None refuses it, or leaves it out of a folder.
    skip_bad: leave out, rather than refuse, documents that cannot be read.
    max_document_bytes: of a document, and of all else that must be held whole
      to be read: a line of JSON, a JSON array, a compressed parquet file.
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
        "An encoding is one that Python knows, such as utf-8, utf-16, latin-1 "
        f"or cp1252, got {self.encoding!r}. Name one of these."
      ) from error
    if self.max_document_bytes < 1:
      raise ValueError(
        "The largest document must have at least 1 byte, got "
        f"{self.max_document_bytes}. Raise it."
      )


DEFAULT = Options()


@dataclasses.dataclass(frozen=True)
class Skipped:
  """A document that is left out.

  Attributes:
    kind: "null" where null stands for its text; "bad" where it cannot be read.
    why: where it is and what is wrong; "" for null.
  """

  kind: Literal["null", "bad"]
  why: str = ""


Document = str | Skipped


def bad(options: Options, why: str) -> Skipped:
  """Returns the mark of a document that is left out.

  Raises:
    ValueError: `why`, unless such documents are skipped.
  """
  if not options.skip_bad:
    raise ValueError(why)
  return Skipped("bad", why)


def too_large(options: Options, where: str) -> Skipped:
  """Returns, or raises, `bad` for what is above the limit."""
  return bad(
    options,
    "A document, or what holds it, must be of at most "
    f"{options.max_document_bytes:,} bytes, got more at {where}. Cut it up "
    "(--separator), or raise the limit (--max-document-mib).",
  )


def decoded(
  data: bytes | bytearray | None, encoding: str, where: str, options: Options
) -> Document:
  """Returns the text of `data`, or as `bad` where it does not decode.

  Args:
    data: None where there is more than the limit.
    where: what messages call it.
  """
  if data is None:
    return too_large(options, where)
  try:
    return data.decode(encoding)
  except UnicodeError as error:
    return bad(
      options,
      f"Text must be {encoding.upper()}, got {error} in {where}. Name its "
      "encoding (--encoding), or leave it out (--skip-bad).",
    )
