"""Documents of a text file."""

from collections.abc import Iterator
import io

from drope_jax.data import reading, text_lines


def documents(
  stream: io.BufferedReader, name: str, options: reading.Options
) -> Iterator[reading.Document]:
  """Yields the whole file, or the documents that a separator ends.

  Raises:
    ValueError: text in another encoding, or above the size limit.
  """
  stream, encoding = text_lines.open_stream(stream, options.encoding)
  limit = options.max_document_bytes
  if options.separator is None:
    data = text_lines.read_all(stream, limit)
    yield reading.decode(data, encoding, name, options)
    return
  separator = options.separator.encode(encoding)
  # None while the rest of a document that is too large is skipped.
  document, start = bytearray(), 1
  for number, line in enumerate(text_lines.lines(stream, limit), 1):
    if line is not None and line.rstrip(b"\r\n") == separator:
      if document is not None:
        yield reading.decode(document, encoding, f"{name}:{start}", options)
      document, start = bytearray(), number + 1
    elif document is None:
      continue
    elif line is None or len(document) + len(line) > limit:
      document = None
      yield reading.too_large(options, f"{name}:{start}")
    else:
      document += line
  # What a separator ends may be empty; after the last one is no document.
  if document or (document is not None and start == 1):
    yield reading.decode(document, encoding, f"{name}:{start}", options)
