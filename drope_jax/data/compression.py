"""Compressed files, recognized by the ending of their names."""

import bz2
from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import gzip
import io
import lzma
from typing import Any, BinaryIO, cast
import zlib

import zstandard

from drope_jax.data import byte_stream, zstd_stream

_OPEN: Mapping[str, Callable] = {
  ".gz": gzip.open,
  ".xz": lzma.open,
  ".bz2": bz2.open,
}
ENDINGS = (".gz", ".zst", ".xz", ".bz2")

# What reading a damaged or truncated file raises.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

_READ_BYTES = 1 << 20


@contextlib.contextmanager
def decompress(
  raw: BinaryIO, ending: str | None
) -> Iterator[io.BufferedReader]:
  """Yields the decompressed content of `raw`, as a context manager.

  Reading damaged content raises one of `DAMAGE`.

  Args:
    raw: the file, open for reading.
    ending: one of `ENDINGS`; None if the file is not compressed. A compressed
      file is not seekable.
  """
  if ending is None:
    # A file in a bucket has no buffer, but reading lines needs one.
    if isinstance(raw, io.BufferedReader):
      yield raw
    else:
      yield io.BufferedReader(cast(Any, raw))
  elif ending == ".zst":
    yield zstd_stream.decompress(raw)
  else:
    with _OPEN[ending](raw) as inflated:
      read = functools.partial(inflated.read, _READ_BYTES)
      yield byte_stream.from_blocks(iter(read, b""))
