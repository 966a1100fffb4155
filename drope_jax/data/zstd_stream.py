"""Reading .zst files, with an error if one is truncated."""

from collections.abc import Iterator
import io
from typing import BinaryIO

import zstandard

from drope_jax.data import byte_stream

_READ_BYTES = 1 << 20

# Compressed bytes per step. The format expands 4 bytes to at most 128 KiB, so
# a step makes at most 32 MiB.
_INFLATED_BYTES = 1 << 10

# The window of `zstd --long=31`, the largest that the zstd command writes. The
# decoder allocates memory only for as much as the content fills.
_WINDOW_BYTES = 1 << 31


def decompress(raw: BinaryIO) -> io.BufferedReader:
  """Returns the decompressed content of `raw` as a readable binary file.

  It raises EOFError where `raw` ends within a frame, for example after a broken
  download. `zstandard.stream_reader` would end there without an error.
  """
  return byte_stream.from_blocks(_decompressed(raw))


def _decompressed(raw: BinaryIO) -> Iterator[bytes]:
  decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
  frame = decoder.decompressobj()
  while data := raw.read(_READ_BYTES):
    for start in range(0, len(data), _INFLATED_BYTES):
      block = data[start : start + _INFLATED_BYTES]
      while block:
        if frame.eof:
          frame = decoder.decompressobj()
        yield frame.decompress(block)
        block = frame.unused_data
  if not frame.eof:
    raise EOFError("the compressed data end in the middle of a frame")
