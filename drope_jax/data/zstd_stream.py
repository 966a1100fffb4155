"""Reading .zst files, with an error where one is cut short."""

from collections.abc import Iterator
import io
from typing import BinaryIO

import zstandard

_BLOCK_BYTES = 1 << 20


def opened(raw: BinaryIO) -> io.BufferedReader:
  """Returns the inflated content of `raw` as a readable binary file.

  `zstandard.stream_reader` ends without a word where its input does, so that a
  broken download loses text unseen; here reading it raises EOFError.
  """
  return io.BufferedReader(_Reader(_inflated(raw)), _BLOCK_BYTES)


def _inflated(raw: BinaryIO) -> Iterator[bytes]:
  frame = zstandard.ZstdDecompressor().decompressobj()
  while block := raw.read(_BLOCK_BYTES):
    while block:
      if frame.eof:
        frame = zstandard.ZstdDecompressor().decompressobj()
      yield frame.decompress(block)
      block = frame.unused_data
  if not frame.eof:
    raise EOFError("the compressed data end in the middle of a frame")


class _Reader(io.RawIOBase):
  """A readable file over an iterator of byte strings."""

  def __init__(self, blocks: Iterator[bytes]):
    self._blocks = blocks
    self._rest = b""

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: memoryview) -> int:
    while not self._rest:
      block = next(self._blocks, None)
      if block is None:
        return 0
      self._rest = block
    size = min(len(buffer), len(self._rest))
    buffer[:size], self._rest = self._rest[:size], self._rest[size:]
    return size
