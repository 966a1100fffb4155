"""Binary files whose content comes from an iterator of byte strings."""

from collections.abc import Iterator
import io
from typing import Any

_BUFFER_BYTES = 1 << 20


def from_blocks(blocks: Iterator[bytes]) -> io.BufferedReader:
  """Returns a readable binary file with the concatenated blocks."""
  return io.BufferedReader(_Blocks(blocks), _BUFFER_BYTES)


class _Blocks(io.RawIOBase):
  """A raw stream over an iterator of byte strings."""

  def __init__(self, blocks: Iterator[bytes]):
    self._blocks = blocks
    self._rest = memoryview(b"")

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    while not self._rest:
      block = next(self._blocks, None)
      if block is None:
        return 0
      self._rest = memoryview(block)
    size = min(len(buffer), len(self._rest))
    buffer[:size], self._rest = self._rest[:size], self._rest[size:]
    return size
