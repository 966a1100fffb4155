"""Reading .zst: every byte, or an error."""

import io
import os

import hypothesis
from hypothesis import strategies
import pytest
import zstandard

from drope_jax.data import zstd_stream

# Above the reader's block, and incompressible, so that blocks split frames.
LONG = os.urandom(3 << 20)


@hypothesis.given(strategies.lists(strategies.binary(max_size=99), min_size=1))
@hypothesis.example([LONG, b"", LONG[:7]])
def test_frames_end_to_end_read_as_their_contents(parts):
  data = b"".join(map(zstandard.compress, parts))
  with zstd_stream.opened(io.BytesIO(data)) as stream:
    assert stream.read() == b"".join(parts)


@pytest.mark.parametrize("missing", [1, 5, 2 << 20])
def test_data_cut_short_raise(missing):
  data = zstandard.compress(LONG)[:-missing]
  with (
    zstd_stream.opened(io.BytesIO(data)) as stream,
    pytest.raises(EOFError, match="middle of a frame"),
  ):
    stream.read()


def test_an_empty_file_is_no_frame():
  with (
    zstd_stream.opened(io.BytesIO(b"")) as stream,
    pytest.raises(EOFError, match="middle of a frame"),
  ):
    stream.read()
