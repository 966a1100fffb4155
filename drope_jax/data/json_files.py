"""JSON documents: objects with a string "text"."""

from collections.abc import Callable, Iterable, Iterator
import functools
import io
import itertools
import json
from typing import Any

from drope_jax.data import reading, text_lines


def lines(
  stream: io.BufferedReader, name: str, options: reading.Options
) -> Iterator[reading.Document]:
  """Yields the document of each line.

  Raises:
    ValueError: a line holds no document, or is above the size limit.
  """
  stream, encoding = text_lines.open_stream(stream, options.encoding)
  split = text_lines.lines(stream, options.max_document_bytes)
  yield from _numbered(enumerate(split, 1), encoding, name, options)


def _numbered(
  numbered: Iterable[tuple[int, bytes | bytearray | None]],
  encoding: str,
  name: str,
  options: reading.Options,
) -> Iterator[reading.Document]:
  for number, line in numbered:
    where = f"{name}:{number}"
    if line is None:
      yield reading.too_large(options, where)
    elif not line.isspace():
      yield _read(
        functools.partial(_text_of_line, line, encoding),
        f'A line of JSON must be an object with a string "{reading.FIELD}"',
        where,
        options,
      )


def lines_or_array(
  stream: io.BufferedReader, name: str, options: reading.Options
) -> Iterator[reading.Document]:
  """Yields the document of each line, or of each element of a JSON array.

  Raises:
    ValueError: as `lines`.
  """
  stream, encoding = text_lines.open_stream(stream, options.encoding)
  limit = options.max_document_bytes
  numbered = enumerate(text_lines.lines(stream, limit), 1)
  numbered = itertools.dropwhile(
    lambda pair: pair[1] and pair[1].isspace(), numbered
  )
  number, first = next(numbered, (0, b""))
  if first is None or not first.lstrip().startswith(b"["):
    numbered = itertools.chain([(number, first)] if number else [], numbered)
    yield from _numbered(numbered, encoding, name, options)
    return
  rest = text_lines.read_all(stream, limit - len(first))
  if rest is None:
    yield reading.too_large(options, name)
    return
  required = f'A JSON array must hold objects with a string "{reading.FIELD}"'
  values = _read(
    lambda: json.loads((first + rest).decode(encoding)), required, name, options
  )
  if isinstance(values, reading.Skipped):
    yield values
    return
  for number, value in enumerate(values, 1):
    where = f"{name}, element {number}"
    yield _read(functools.partial(_text_of, value), required, where, options)


def _read(
  read: Callable[[], Any], required: str, where: str, options: reading.Options
) -> Any:
  try:
    return read()
  except RecursionError:
    got = "one that is nested too deep"
  except (ValueError, TypeError) as error:
    got = str(error)
  return reading.reject(
    options,
    f"{required}, got {got} at {where}. Correct or delete it, or leave it out "
    "(`skip_bad`).",
  )


def _text_of_line(line: bytes | bytearray, encoding: str) -> reading.Document:
  return _text_of(json.loads(line.decode(encoding)))


def _text_of(value: Any) -> reading.Document:
  if not isinstance(value, dict):
    raise TypeError(f"a {type(value).__name__}")
  if reading.FIELD not in value:
    raise ValueError(f'no "{reading.FIELD}"')
  text = value[reading.FIELD]
  if text is None:
    return reading.Skipped("null")
  if not isinstance(text, str):
    raise TypeError(f'a {type(text).__name__} as "{reading.FIELD}"')
  # JSON can hold half of a surrogate pair, which no tokenizer accepts.
  if not text.isascii():
    text.encode("utf-8")
  return text
