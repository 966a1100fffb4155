"""Reading .zst files, with an error where one is cut short."""

from collections.abc import Iterator
import io
from typing import BinaryIO

import zstandard

from drope_jax.data import byte_stream

_READ_BYTES = 1 << 20

# What inflates at a time. The format's densest block makes 128 KiB of 4 bytes,
# so that this makes at most 32 MiB.
_INFLATED_BYTES = 1 << 10

# What `zstd --long=31` writes, the most that the format's own tool does. The
# decoder takes as much memory as the content fills.
_WINDOW_BYTES = 1 << 31


def opened(raw: BinaryIO) -> io.BufferedReader:
  """Returns the inflated content of `raw` as a readable binary file.

  `zstandard.stream_reader` ends without a word where its input does, so that a
  broken download loses text unseen; here reading it raises EOFError.
  """
  return byte_stream.opened(_inflated(raw))


def _inflated(raw: BinaryIO) -> Iterator[bytes]:
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
