"""A file is never seen half written."""

import pytest

from drope_jax.data import whole_file


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
  file = tmp_path / "file"
  whole_file.write(file, b"old")
  (tmp_path / "file.tmp").mkdir()  # Nothing can be written beside it.
  with pytest.raises(OSError):
    whole_file.write(file, b"new")
  assert file.read_bytes() == b"old"


def test_a_write_replaces_what_was_there_and_leaves_nothing_beside(tmp_path):
  file = tmp_path / "file"
  whole_file.write(file, b"old")
  whole_file.write(file, b"new")
  assert [path.name for path in tmp_path.iterdir()] == ["file"]
  assert file.read_bytes() == b"new"
