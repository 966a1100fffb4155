"""A file is never visible half written."""

import pytest

from drope_jax.data import whole_file


def test_a_failed_write_keeps_the_old_file(tmp_path):
  file = tmp_path / "file"
  whole_file.write(file, b"old")
  (tmp_path / "file.tmp").mkdir()  # No temporary file can be written.
  with pytest.raises(OSError):
    whole_file.write(file, b"new")
  assert file.read_bytes() == b"old"


def test_a_write_replaces_the_old_file_and_leaves_no_other(tmp_path):
  file = tmp_path / "file"
  whole_file.write(file, b"old")
  whole_file.write(file, b"new")
  assert [path.name for path in tmp_path.iterdir()] == ["file"]
  assert file.read_bytes() == b"new"
