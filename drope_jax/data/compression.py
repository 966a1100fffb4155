"""Compressed files, by the ending of their names."""

import bz2
from collections.abc import Iterator
import contextlib
import functools
import gzip
import io
import lzma
from typing import BinaryIO
import zlib

import zstandard

from drope_jax.data import byte_stream, zstd_stream

_OPEN = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
ENDINGS = (".gz", ".zst", ".xz", ".bz2")

# What reading a file that is damaged or cut short raises.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

_READ_BYTES = 1 << 20


@contextlib.contextmanager
def opened(raw: BinaryIO, ending: str | None) -> Iterator[io.BufferedReader]:
  """Gives the content of `raw`; reading what is damaged raises `DAMAGE`.

  Args:
    ending: one of `ENDINGS`, or None where it is not compressed. What is
      compressed cannot be sought in.
  """
  if ending is None:
    # A file in a bucket has no buffer, which is where lines are read from.
    yield raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
  elif ending == ".zst":
    yield zstd_stream.opened(raw)
  else:
    with _OPEN[ending](raw) as inflated:
      read = functools.partial(inflated.read, _READ_BYTES)
      yield byte_stream.opened(iter(read, b""))
