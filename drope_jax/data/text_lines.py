"""A text file's lines as bytes, with a size limit; marks and encodings.

Lines are bytes, so that one that does not decode does not affect the others.
"""

import codecs
from collections.abc import Iterator
import io

from drope_jax.data import byte_stream

# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = {
  codecs.BOM_UTF32_LE: "utf-32-le",
  codecs.BOM_UTF32_BE: "utf-32-be",
  codecs.BOM_UTF8: "utf-8",
  codecs.BOM_UTF16_LE: "utf-16-le",
  codecs.BOM_UTF16_BE: "utf-16-be",
}
# Encodings without a mark; Python's stream decoders would require one.
_UNMARKED = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}
_READ_BYTES = 1 << 20


def open_stream(
  stream: io.BufferedReader, encoding: str
) -> tuple[io.BufferedReader, str]:
  r"""Returns the stream after its byte order mark, and its encoding.

  In the encoding returned, lines end in the byte \n. Other encodings, for
  example UTF-16, are converted to UTF-8.

  Args:
    stream: the file, at its start.
    encoding: of a stream without a byte order mark.
  """
  start = stream.peek(4)[:4]
  for mark, marked in _MARKS.items():
    if start.startswith(mark):
      stream.read(len(mark))
      encoding = marked
      break
  encoding = codecs.lookup(encoding).name
  encoding = _UNMARKED.get(encoding, encoding)
  if "\n".encode(encoding) == b"\n":
    return stream, encoding
  return byte_stream.from_blocks(_utf8(stream, encoding)), "utf-8"


def _utf8(stream: io.BufferedReader, encoding: str) -> Iterator[bytes]:
  # Half of a surrogate pair becomes bytes that fail to decode in one line only.
  decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
  while block := stream.read1(_READ_BYTES):
    yield decoder.decode(block).encode("utf-8", "surrogatepass")
  yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


def lines(
  stream: io.BufferedReader, max_bytes: int
) -> Iterator[bytes | bytearray | None]:
  r"""Yields the lines with their \n; None in place of one above `max_bytes`.

  The rest of such a line is read only if the next line is asked for.
  """
  step = min(_READ_BYTES, max_bytes + 1)
  while line := stream.readline(step):
    piece = line
    if not line.endswith(b"\n"):
      line = bytearray(line)
      while (
        len(line) <= max_bytes
        and not line.endswith(b"\n")
        and (piece := stream.readline(step))
      ):
        line += piece
    if len(line) <= max_bytes:
      yield line
      continue
    del line
    yield None
    while piece and not piece.endswith(b"\n"):
      piece = stream.readline(step)


def read_all(stream: io.BufferedReader, max_bytes: int) -> bytearray | None:
  """Returns the rest of the stream; None if it is above `max_bytes`."""
  data = bytearray()
  while block := stream.read(_READ_BYTES):
    data += block
    if len(data) > max_bytes:
      return None
  return data
