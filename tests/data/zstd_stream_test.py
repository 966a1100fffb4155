"""Reading .zst: all bytes, or an error."""

import io
import random
import tracemalloc

import hypothesis
from hypothesis import strategies
import pytest
import zstandard

from drope_jax.data import zstd_stream

# Longer than the reader's block and incompressible, so blocks split frames.
LONG = random.Random(0).randbytes(3 << 20)


def _frames_read_as_contents(parts):
  data = b"".join(map(zstandard.compress, parts))
  with zstd_stream.decompress(io.BytesIO(data)) as stream:
    return stream.read() == b"".join(parts)


@hypothesis.given(strategies.lists(strategies.binary(max_size=99), min_size=1))
def test_concatenated_frames_give_their_concatenated_content(parts):
  assert _frames_read_as_contents(parts)


def test_frames_longer_than_a_block_are_read():
  assert _frames_read_as_contents([LONG, b"", LONG[:7]])


@pytest.mark.parametrize("missing", [1, 5, 2 << 20])
def test_truncated_data_raises(missing):
  data = zstandard.compress(LONG)[:-missing]
  with (
    zstd_stream.decompress(io.BytesIO(data)) as stream,
    pytest.raises(EOFError, match="middle of a frame"),
  ):
    stream.read()


def test_an_empty_file_raises():
  with (
    zstd_stream.decompress(io.BytesIO(b"")) as stream,
    pytest.raises(EOFError, match="middle of a frame"),
  ):
    stream.read()


def test_a_window_of_two_gigabytes_is_read():
  params = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
  # The window of a frame that states its size would have that size.
  compressor = zstandard.ZstdCompressor(compression_params=params)
  compressor = compressor.compressobj()
  data = compressor.compress(LONG) + compressor.flush()
  assert zstandard.get_frame_parameters(data).window_size == 1 << 31
  with zstd_stream.decompress(io.BytesIO(data)) as stream:
    assert stream.read() == LONG


def test_highly_compressed_data_is_decompressed_in_steps():
  data = zstandard.compress(bytes(1 << 27), 19)
  assert len(data) < 1 << 15
  tracemalloc.start()
  with zstd_stream.decompress(io.BytesIO(data)) as stream:
    read = sum(map(len, iter(lambda: stream.read(1 << 20), b"")))
  peak_bytes = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert read == 1 << 27
  # The decompressed form of 1 KiB, and the copy that the library makes.
  assert peak_bytes < 1e8
