"""What is left of a save is known for what it is."""

from etils import epath
import pytest

from drope_jax.checkpoint import files


@pytest.fixture
def bucket(monkeypatch, tmp_path) -> epath.Path:
  """A folder that passes for one in a bucket."""
  monkeypatch.setattr(files.paths, "in_bucket", lambda path: True)
  return epath.Path(tmp_path)


def test_a_save_without_its_last_files_was_interrupted(bucket):
  (bucket / files.PARAMS).mkdir()
  assert not files.is_interrupted(bucket), "the arrays are not there yet"
  (bucket / files.PARAMS / "manifest.ocdbt").touch()
  for name in (files.TOKENIZER, "orbax.checkpoint"):
    assert files.is_interrupted(bucket)
    (bucket / name).mkdir()
  assert files.is_interrupted(bucket)
  (bucket / files.METADATA).touch()
  assert not files.is_interrupted(bucket)


def test_a_folder_on_a_disk_is_renamed_when_it_is_whole(tmp_path):
  (tmp_path / files.PARAMS).mkdir()
  (tmp_path / files.PARAMS / "manifest.ocdbt").touch()
  assert not files.is_interrupted(epath.Path(tmp_path))
