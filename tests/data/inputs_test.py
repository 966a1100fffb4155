"""Inputs: which files of folders and globs are read, and which left out."""

import os

import pytest

from drope_jax.data import corpus, inputs, reading, sources


def _names(*given, **options):
  found, _ = inputs.expand(list(map(str, given)), reading.Options(**options))
  return [source.name for source in found]


def _left_out(*given):
  return dict(inputs.expand(list(map(str, given)))[1])


def test_a_folder_and_a_glob_expand_sorted_to_known_files(tmp_path):
  for name in ("b.txt", "a.jsonl.gz", "sub/c.parquet", "notes.pdf"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
  names = _names(tmp_path)
  assert names == [
    str(tmp_path / n) for n in ("a.jsonl.gz", "b.txt", "sub/c.parquet")
  ]
  globbed = _names(f"{tmp_path}/*.txt", f"{tmp_path}/**/*.parquet")
  assert globbed == [names[1], names[2]]
  pdf = {".pdf": [str(tmp_path / "notes.pdf")]}
  assert _left_out(tmp_path) == _left_out(f"{tmp_path}/*.*") == pdf


@pytest.mark.parametrize(
  "name",
  ["c4.json.gz", "a.jsonl.xz", "A.TXT", "B.JSONL.GZ", "a.md", "a.txt.bz2"],
)
def test_common_file_names_have_a_known_format(tmp_path, name):
  (tmp_path / name).touch()
  assert _names(tmp_path) == [str(tmp_path / name)]
  assert not _left_out(tmp_path)


def test_hidden_files_are_left_out_of_a_folder(tmp_path):
  for name in (".ipynb_checkpoints/a.txt", "b/._a.txt", "b/a.txt"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  assert _names(tmp_path) == [str(tmp_path / "b" / "a.txt")]
  hidden = [tmp_path / ".ipynb_checkpoints", tmp_path / "b" / "._a.txt"]
  assert _left_out(tmp_path) == {"hidden": list(map(str, hidden))}
  # A hidden file is read if the user names it.
  assert _names(tmp_path / ".ipynb_checkpoints") == [f"{hidden[0]}/a.txt"]


@pytest.mark.parametrize("pattern", ["", "/**/*"])
def test_links_are_followed_and_each_file_is_read_once(tmp_path, pattern):
  folder, outside = tmp_path / "in", tmp_path / "outside"
  for path in (folder / "a.txt", outside / "b.txt", outside / "blob"):
    path.parent.mkdir(exist_ok=True)
    path.write_text(path.name)
  os.symlink(folder, folder / "loop")
  os.symlink("a.txt", folder / "again.txt")
  os.symlink(outside, folder / "other")
  os.symlink(outside / "blob", folder / "c.txt")
  os.symlink("nowhere", folder / "broken.txt")
  names = [str(folder / name) for name in ("a.txt", "c.txt", "other/b.txt")]
  assert _names(f"{folder}{pattern}") == names
  left_out = _left_out(f"{folder}{pattern}")
  assert (
    str(folder / "again.txt")
    in left_out["link to a file or folder that is read already"]
  )
  assert str(folder / "broken.txt") in left_out["broken link"]
  # It is read under the name with a known ending.
  assert "without an ending" not in left_out


def test_a_pipe_in_a_folder_is_left_out(tmp_path):
  (tmp_path / "a.txt").touch()
  os.mkfifo(tmp_path / "b.txt")
  pipe = [str(tmp_path / "b.txt")]
  assert _left_out(tmp_path) == {"device or pipe": pipe}


def test_a_json_file_without_documents_is_left_out_of_a_folder(tmp_path):
  (tmp_path / "lines.json").write_text('{"text": "a"}\n')
  (tmp_path / "array.json").write_text('[{"text": "a"}]')
  (tmp_path / "config.json").write_text('{"vocab_size": 3}')
  names = [str(tmp_path / name) for name in ("array.json", "lines.json")]
  assert _names(tmp_path) == names
  other = [str(tmp_path / "config.json")]
  assert _left_out(tmp_path) == {'.json without "text"': other}
  assert _names(*other) == other


def test_left_out_files_are_counted_by_reason_and_named(tmp_path):
  (tmp_path / "a.txt").touch()
  for name in ("1.csv", "2.csv", "3.csv", "x.tar.gz", "LICENSE", "~a.TXT.part"):
    (tmp_path / name).touch()
  line = inputs.describe(_left_out(tmp_path))
  assert line.startswith("6 left out: ")
  for kind in (
    f"3 .csv ({tmp_path}/1.csv, {tmp_path}/2.csv, ...)",
    f"1 .tar.gz ({tmp_path}/x.tar.gz)",
    f"1 without an ending ({tmp_path}/LICENSE)",
    f"1 .part ({tmp_path}/~a.TXT.part)",
  ):
    assert kind in line


def test_files_without_a_known_ending_are_read_in_the_given_format(tmp_path):
  for name in ("LICENSE", "a.py", "b.jsonl"):
    (tmp_path / name).touch()
  assert len(_names(tmp_path, ending=".txt")) == 3
  with pytest.raises(ValueError, match="got '.docx'"):
    _names(tmp_path, ending=".docx")


def test_standard_input_can_be_named_only_once():
  (source,), left_out = inputs.expand(["-"], reading.Options(ending=".jsonl"))
  assert isinstance(source, sources.StandardInput) and not left_out
  assert source.options.ending == ".jsonl"
  with pytest.raises(ValueError, match="got - more than once"):
    inputs.expand(["-", "-"])


def test_packaged_names_the_packaged_corpus():
  (source,), _ = inputs.expand(["packaged:fit"])
  assert list(source.documents()) == list(corpus.documents("fit"))
  with pytest.raises(ValueError, match="train, fit, test, got 'valid'"):
    inputs.expand(["packaged:valid"])


def test_paths_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match="got an empty text"):
    inputs.expand([""])
  with pytest.raises(ValueError, match=r"no \*\*, got gs://bucket/"):
    inputs.expand(["gs://bucket/**/*.txt"])


def test_inputs_that_match_no_file_are_refused(tmp_path):
  for name in ("absent.txt", "*.txt", ""):
    with pytest.raises(FileNotFoundError, match="no file. Check the path.$"):
      inputs.expand([str(tmp_path / name)])
  (tmp_path / "a.pdf").touch()
  with pytest.raises(ValueError, match=r"must end in \.txt"):
    inputs.expand([str(tmp_path / "a.pdf")])
  with pytest.raises(FileNotFoundError, match=r"with 1 left out: 1 \.pdf"):
    inputs.expand([str(tmp_path)])
