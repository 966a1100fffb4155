"""Parquet documents: the rows of a string column "text"."""

from collections.abc import Callable, Iterator
import io
from typing import Any

from drope_jax import extras
from drope_jax.data import reading, text_lines

# Few rows at a time: a dictionary column can repeat one long text.
_ROWS = 16


def documents(
  stream: io.BufferedReader, name: str, options: reading.Options
) -> Iterator[reading.Document]:
  """Yields the text of each row.

  Raises:
    ValueError: a column of another type, damage, or a row above the limit.
  """
  try:
    import pyarrow.parquet  # Heavy, and only for this format.
  except ImportError as error:
    message = extras.missing("pyarrow", "parquet", f"Reading {name}")
    raise ValueError(message) from error
  limit = options.max_document_bytes
  # Parquet is read from its end, so compressed files are decompressed first.
  if not stream.seekable():
    stream = text_lines.read_all(stream, limit)
    if stream is None:
      yield reading.too_large(options, name)
      return
    stream = pyarrow.BufferReader(stream)
  try:
    table = pyarrow.parquet.ParquetFile(stream)
    kind = table.schema_arrow.field(reading.FIELD).type
    if pyarrow.types.is_dictionary(kind):
      kind = kind.value_type
    if not any(is_kind(kind) for is_kind in _string_kinds(pyarrow.types)):
      raise TypeError(f"a column of {kind}")
    row = 0
    for batch in table.iter_batches(_ROWS, columns=[reading.FIELD]):
      for value in batch.column(reading.FIELD).cast(pyarrow.large_string()):
        row += 1
        yield _text_of(value, f"{name}, row {row}", options)
  except (pyarrow.ArrowException, KeyError, TypeError) as error:
    raise ValueError(
      f'A .parquet input must have a string column "{reading.FIELD}", got '
      f"{error!r} in {name}. Rename its column, or fetch the file again."
    ) from error


def _string_kinds(types: Any) -> tuple[Callable[[Any], bool], ...]:
  return (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_null,
  )


def _text_of(
  value: Any, where: str, options: reading.Options
) -> reading.Document:
  if not value.is_valid:
    return reading.Skipped("null")
  data = value.as_buffer()
  if data.size > options.max_document_bytes:
    return reading.too_large(options, where)
  return reading.decode(memoryview(data).tobytes(), "utf-8", where, options)
