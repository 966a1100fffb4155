"""Sources: one set of documents, however it is stored."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from drope_jax.data import corpus, sources

DOCUMENTS = ["Call me Ishmael.\r\n\nSome years ago", "漢字 \N{WHALE}\n", "x"]
SURROGATE = r'{"text": "half a pair \ud800"}'
COMPRESS = {
  "": lambda data: data,
  ".gz": gzip.compress,
  # Two frames, as parallel compressors write.
  ".zst": lambda data: (
    zstandard.compress(data[:9]) + zstandard.compress(data[9:])
  ),
}


def _content(kind, tmp_path):
  if kind == ".txt":
    return "\n<|doc|>\n".join(DOCUMENTS).encode()
  if kind == ".jsonl":
    return "\n".join(json.dumps({"text": d}) for d in DOCUMENTS).encode()
  path = tmp_path / "plain"
  pyarrow.parquet.write_table(
    pyarrow.table({"id": [0, 1, 2, 3], "text": [*DOCUMENTS, None]}), path
  )
  return path.read_bytes()


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".parquet"])
def test_every_format_yields_the_same_documents(tmp_path, kind, compression):
  path = tmp_path / f"a{kind}{compression}"
  path.write_bytes(COMPRESS[compression](_content(kind, tmp_path)))
  (source,) = sources.expand([str(path)], separator="<|doc|>")
  # Lines keep their ends, so the separator's own newline stays with the text.
  ends = ["\n", "\n", ""] if kind == ".txt" else [""] * 3
  assert list(source.documents()) == [
    d + end for d, end in zip(DOCUMENTS, ends, strict=True)
  ]


def test_a_text_file_without_separator_is_one_document(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(_content(".txt", tmp_path))
  (source,) = sources.expand([str(path)])
  assert list(source.documents()) == ["\n<|doc|>\n".join(DOCUMENTS)]


@pytest.mark.parametrize(
  "name", ["a.jsonl.gz", "a.jsonl.zst", "a.txt.zst", "a.parquet"]
)
@pytest.mark.parametrize("missing", [1, 40])
def test_a_file_cut_short_is_refused(tmp_path, name, missing):
  kind = f".{name.split('.')[1]}"
  compression = name.removeprefix(f"a{kind}")
  data = COMPRESS[compression](_content(kind, tmp_path))
  path = tmp_path / name
  path.write_bytes(data)
  (source,) = sources.expand([str(path)])
  assert list(source.documents()), "the whole file is unreadable too"
  path.write_bytes(data[:-missing])
  with pytest.raises(ValueError, match="etch it again"):
    list(source.documents())


def test_a_folder_and_a_glob_expand_sorted_to_known_files(tmp_path):
  for name in ("b.txt", "a.jsonl.gz", "sub/c.parquet", "notes.md"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
  names = [s.name for s in sources.expand([str(tmp_path)])]
  assert names == [
    str(tmp_path / n) for n in ("a.jsonl.gz", "b.txt", "sub/c.parquet")
  ]
  globbed = sources.expand([f"{tmp_path}/*.txt", f"{tmp_path}/**/*.parquet"])
  assert [s.name for s in globbed] == [names[1], names[2]]


def test_packaged_names_the_packaged_corpus():
  (source,) = sources.expand(["packaged:fit"])
  assert list(source.documents()) == list(corpus.documents("fit"))
  with pytest.raises(ValueError, match="train, fit, test, got 'valid'"):
    sources.expand(["packaged:valid"])


def test_identity_changes_with_the_file(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("one")
  before = sources.File(str(path)).identity()
  assert before == sources.File(str(path)).identity()
  assert before != sources.File(str(path), separator="-").identity()
  path.write_text("longer")
  assert before != sources.File(str(path)).identity()


def test_inputs_that_name_nothing_are_refused(tmp_path):
  for name in ("absent.txt", "*.txt", ""):
    with pytest.raises(FileNotFoundError, match="there is none"):
      sources.expand([str(tmp_path / name)])
  (tmp_path / "a.pdf").touch()
  with pytest.raises(ValueError, match=r"An input ends in \.txt"):
    sources.expand([str(tmp_path / "a.pdf")])


@pytest.mark.parametrize(
  "line", ['{"body": "x"}', "[1]", '{"text": 3}', "{", SURROGATE]
)
def test_a_jsonl_line_without_text_is_named(tmp_path, line):
  path = tmp_path / "a.jsonl"
  path.write_text('{"text": "fine"}\n\n' + line)
  with pytest.raises(ValueError, match="a.jsonl:3"):
    list(sources.File(str(path)).documents())


def test_text_that_is_not_utf8_is_refused(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(b"caf\xe9 au lait")
  with pytest.raises(ValueError, match="UTF-8"):
    list(sources.File(str(path)).documents())


@pytest.mark.parametrize("table", [{"body": ["x"]}, {"text": [[1, 2]]}])
def test_parquet_without_a_text_column_is_refused(tmp_path, table):
  path = tmp_path / "a.parquet"
  pyarrow.parquet.write_table(pyarrow.table(table), path)
  with pytest.raises(ValueError, match='string column "text"'):
    list(sources.File(str(path)).documents())
