"""What others write while it is read is neither lost nor taken for absent."""

import pytest

from launch import bucket as objects
from launch import commands
from tests.launch.fakes import storage

FOLDER = "gs://bucket/drope/hosts"
do = commands.run


@pytest.fixture
def overwritten(bucket, google):
  """Counts downward how often an object is written as it is about to be read.

  As a host does, whose report comes between gcloud's list and its download.
  """
  left: dict[str, int] = {}

  def downloading(name: str) -> None:
    if left.get(name, 0):
      left[name] -= 1
      storage.put(f"gs://bucket/{name}", f"{left[name]} left".encode())

  bucket.server.downloading = downloading
  yield left
  bucket.server.downloading = lambda name: None
  for name in ("0-0.json", "0-1.json", "0-2.json"):
    bucket.delete_file("bucket", f"drope/hosts/{name}")


def _write(*texts: str) -> None:
  for worker, text in enumerate(texts):
    storage.put(f"{FOLDER}/0-{worker}.json", text.encode())


def test_records_that_are_written_while_they_are_read_are_all_read(overwritten):
  _write("a", "b", "c")
  overwritten |= {"drope/hosts/0-0.json": 1, "drope/hosts/0-1.json": 2}
  found = objects.read_all(f"{FOLDER}/*.json", do)
  assert found == ["0 left", "0 left", "c"]
  assert objects.read_all(f"{FOLDER}/9-*.json", do) == []


def test_an_object_that_is_written_while_it_is_read_is_read_again(overwritten):
  _write("a", "b", "c")
  overwritten["drope/hosts/0-0.json"] = 1
  assert objects.read(f"{FOLDER}/0-0.json", do) == "0 left"
  assert objects.read(f"{FOLDER}/9-9.json", do) is None


@pytest.mark.parametrize("read", [objects.read, objects.read_all])
def test_what_is_always_written_as_it_is_read_is_not_taken_for_absent(
  overwritten, read
):
  _write("a", "b", "c")
  overwritten["drope/hosts/0-0.json"] = 99
  with pytest.raises(commands.Failed, match="not found: 404"):
    read(f"{FOLDER}/0-0.json", do)
