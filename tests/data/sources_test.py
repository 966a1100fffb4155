"""Sources: the same documents in every format."""

import bz2
import gzip
import io
import json
import lzma
import os
import sys

import hypothesis
from hypothesis import strategies
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from drope_jax.data import reading, sources

DOCUMENTS = ["Call me Ishmael.\r\n\nSome years ago", "漢字 \N{WHALE}\n", "x"]
SURROGATE = r'{"text": "half a pair \ud800"}'
COMPRESS = {
  "": lambda data: data,
  ".gz": gzip.compress,
  # Two frames, as written by parallel compressors.
  ".zst": lambda data: (
    zstandard.compress(data[:9]) + zstandard.compress(data[9:])
  ),
  ".xz": lzma.compress,
  ".bz2": bz2.compress,
}
NULL = reading.Skipped("null")


def _file(path, **options):
  return sources.File(str(path), reading.Options(**options))


def _read(path, **options):
  return list(_file(path, **options).documents())


def _why(path, **options):
  """Returns the error message for a file."""
  with pytest.raises(ValueError) as caught:
    _read(path, **options)
  return str(caught.value)


def _content(kind, tmp_path):
  if kind == ".txt":
    return "\n<|doc|>\n".join(DOCUMENTS).encode()
  objects = [{"id": i, "text": d} for i, d in enumerate([*DOCUMENTS, None])]
  if kind == ".array.json":
    return b"\n " + json.dumps(objects, indent=1).encode()
  if kind in (".jsonl", ".json"):
    return "\n".join(map(json.dumps, objects)).encode()
  path = tmp_path / "plain"
  pyarrow.parquet.write_table(
    pyarrow.table({"id": [0, 1, 2, 3], "text": [*DOCUMENTS, None]}), path
  )
  return path.read_bytes()


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize(
  "kind", [".txt", ".jsonl", ".json", ".array.json", ".parquet"]
)
def test_every_format_yields_the_same_documents(tmp_path, kind, compression):
  path = tmp_path / f"a{kind}{compression}"
  path.write_bytes(COMPRESS[compression](_content(kind, tmp_path)))
  source = _file(path, separator="<|doc|>")
  # Lines keep their ends, so the newline before the separator is kept.
  ends = ["\n", "\n", ""] if kind == ".txt" else [""] * 3
  documents = [d + end for d, end in zip(DOCUMENTS, ends, strict=True)]
  null = [] if kind == ".txt" else [NULL]
  assert list(source.documents()) == documents + null


@pytest.mark.parametrize(
  ("text", "documents"),
  [
    ("a\n-\nb\n-\n", ["a\n", "b\n"]),
    ("a\n-\n-\nb", ["a\n", "", "b"]),
    ("", [""]),
  ],
)
def test_a_separator_ends_a_document(tmp_path, text, documents):
  path = tmp_path / "a.txt"
  path.write_text(text)
  assert _read(path, separator="-") == documents


def test_a_text_file_without_separator_is_one_document(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(_content(".txt", tmp_path))
  source = _file(path)
  assert list(source.documents()) == ["\n<|doc|>\n".join(DOCUMENTS)]


@pytest.mark.parametrize(
  "name",
  [
    "a.jsonl.gz",
    "a.jsonl.zst",
    "a.txt.zst",
    "a.json.xz",
    "a.txt.bz2",
    "a.parquet",
  ],
)
@pytest.mark.parametrize("missing", [1, 40])
def test_a_truncated_file_is_refused(tmp_path, name, missing):
  kind = f".{name.split('.')[1]}"
  compression = name.removeprefix(f"a{kind}")
  data = COMPRESS[compression](_content(kind, tmp_path))
  path = tmp_path / name
  path.write_bytes(data)
  source = _file(path)
  assert list(source.documents()), "the whole file is unreadable too"
  path.write_bytes(data[:-missing])
  with pytest.raises(ValueError, match="etch (it|the file) again"):
    list(source.documents())


def test_identity_changes_with_the_file(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("one")
  before = _file(path).identity()
  assert before == _file(path).identity()
  assert before != _file(path, separator="-").identity()
  path.write_text("longer")
  assert before != _file(path).identity()


@pytest.mark.parametrize(
  "line", ['{"body": "x"}', "[1]", '{"text": 3}', "{", SURROGATE]
)
def test_a_jsonl_line_without_text_is_named(tmp_path, line):
  path = tmp_path / "a.jsonl"
  path.write_text('{"text": "fine"}\n\n' + line)
  with pytest.raises(ValueError, match="a.jsonl:3"):
    list(_file(path).documents())


@pytest.mark.parametrize("compression", [".gz", ".zst", ".xz", ".bz2"])
def test_a_damaged_file_is_named(tmp_path, compression):
  lines = "".join(f'{{"text": "entry {i * i}"}}\n' for i in range(2000))
  data = bytearray(COMPRESS[compression](lines.encode()))
  for k in range(len(data) // 2, len(data) // 2 + 20):
    data[k] ^= 0xFF
  path = tmp_path / f"a.jsonl{compression}"
  path.write_bytes(data)
  assert _why(path).startswith(f"{path} must be complete")


def test_a_json_file_without_an_array_or_lines_is_named(tmp_path):
  path = tmp_path / "a.json"
  path.write_text('{\n "text": "over two lines"\n}')
  assert f"at {path}:1" in _why(path)
  path.write_text('[{"text": "fine"}, {"txt": "x"}]')
  assert f'no "text" at {path}, element 2' in _why(path)
  path.write_text('[{"text": "cut"')
  assert f"at {path}" in _why(path)


def test_text_of_another_encoding_needs_its_name(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(b"caf\xe9 au lait")
  why = _why(path)
  assert "UTF-8" in why and str(path) in why and "`encoding`" in why
  assert _read(path, encoding="latin-1") == ["café au lait"]
  path = tmp_path / "a.jsonl"
  path.write_bytes(b'{"text": "x"}\n{"text": "caf\xe9"}')
  assert f"at {path}:2" in _why(path)
  assert _read(path, encoding="cp1252") == ["x", "café"]
  with pytest.raises(ValueError, match="got 'latin-99'"):
    reading.Options(encoding="latin-99")


BYTE_ORDER_MARKED = ["utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", BYTE_ORDER_MARKED)
def test_a_byte_order_mark_sets_the_encoding_and_is_removed(tmp_path, encoding):
  data = _content(".txt", tmp_path).decode().encode(encoding)
  path = tmp_path / "a.txt"
  path.write_bytes(data)
  # Whatever encoding is given for files without a mark.
  for named in ("utf-8", "latin-1"):
    assert _read(path, encoding=named) == ["\n<|doc|>\n".join(DOCUMENTS)]
  assert _read(path, separator="<|doc|>")[1:] == ["漢字 \N{WHALE}\n\n", "x"]
  path = tmp_path / "a.jsonl"
  path.write_bytes('{"text": "first"}\n{"text": "漢字"}\n'.encode(encoding))
  assert _read(path) == ["first", "漢字"]


def test_utf16_without_a_mark_is_read_if_named(tmp_path):
  # U+0A0A consists of two bytes that end lines in other encodings.
  text = "one \u0a0a\ntwo\n"
  path = tmp_path / "a.txt"
  path.write_bytes(text.encode("utf-16-be"))
  assert _read(path, encoding="utf-16-be") == [text]
  path.write_bytes(text.encode("utf-16-be") + b"\xd8\x00")
  assert "in " + str(path) in _why(path, encoding="utf-16-be")
  path.write_bytes(text.encode("utf-16-le"))
  assert _read(path, encoding="utf-16") == [text]
  path.write_bytes(text.encode("utf-16-le") + b"\0")
  assert str(path) in _why(path, encoding="utf-16")


def test_bad_documents_are_skipped_with_their_reasons(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_bytes(
    b'{"text": "one"}\n{"text": "caf\xe9"}\n{"txt": 1}\n'
    + b"[" * 9999
    + b'\n{"text": "two"}\n'
  )
  one, *bad, two = _read(path, skip_bad=True)
  assert (one, two) == ("one", "two")
  assert [skipped.kind for skipped in bad] == ["bad"] * 3
  for number, skipped in enumerate(bad, 2):
    assert f"{path}:{number}" in skipped.why
  path = tmp_path / "a.txt"
  path.write_bytes(b"one\n-\ncaf\xe9\n-\ntwo\n")
  one, bad, two = _read(path, separator="-", skip_bad=True)
  assert (one, two) == ("one\n", "two\n")
  assert f"{path}:3" in bad.why


def test_a_document_above_the_limit_is_refused_or_skipped(tmp_path):
  limit = 1000
  fits, large = "x" * 900, "y" * 99_000
  path = tmp_path / "a.jsonl"
  path.write_text("".join(f'{{"text": "{t}"}}\n' for t in (fits, large, fits)))
  options = {"max_document_bytes": limit}
  why = _why(path, **options)
  assert f"at most 1,000 bytes, got more at {path}:2" in why
  assert "`max_document_bytes`" in why
  first, bad, last = _read(path, skip_bad=True, **options)
  assert (first, bad.kind, last) == (fits, "bad", fits)
  path = tmp_path / "a.txt"
  path.write_text(f"{fits}\n-\n{large}\n{large}\n-\n" + "z\n" * 600)
  first, *bad = _read(path, separator="-", skip_bad=True, **options)
  assert first == fits + "\n"
  assert [f"{path}:{n}" in b.why for n, b in zip((3, 6), bad, strict=True)]
  assert f"more at {path}" in _why(path, **options)
  for name, data in {
    "a.json": f'[{{"text": "{large}"}}]'.encode(),
    "b.json": b'[{"text":\n"' + large.encode() + b'"}]',
    "a.parquet.gz": gzip.compress(b"\0" * 2000),
  }.items():
    (tmp_path / name).write_bytes(data)
    assert f"more at {tmp_path / name}" in _why(tmp_path / name, **options)
  path = tmp_path / "a.parquet"
  table = pyarrow.table({"text": [fits, large, fits]})
  pyarrow.parquet.write_table(table, path)
  assert f"more at {path}, row 2" in _why(path, **options)
  first, bad, last = _read(path, skip_bad=True, **options)
  assert (first, bad.kind, last) == (fits, "bad", fits)


def test_a_file_without_a_known_ending_is_read_in_the_given_format(tmp_path):
  path = tmp_path / "corpus.gz"
  path.write_bytes(gzip.compress(b'{"text": "a"}'))
  assert _read(path, ending=".jsonl") == ["a"]
  path = tmp_path / "corpus"
  path.write_bytes(lzma.compress(b'{"text": "a"}'))
  assert _read(path, ending=".jsonl.xz") == ["a"]
  # A known ending comes first.
  path = tmp_path / "A.TXT"
  path.write_text("a")
  assert _read(path, ending=".jsonl") == ["a"]


def test_standard_input_is_read_as_text_or_in_the_given_format(monkeypatch):
  data = b'{"text": "a"}'
  for options, want in (({}, data.decode()), ({"ending": ".json"}, "a")):
    stream = io.TextIOWrapper(io.BytesIO(data))
    monkeypatch.setattr(sys, "stdin", stream)
    source = sources.StandardInput(reading.Options(**options))
    assert list(source.documents()) == [want]
  assert source.identity() != source.identity()


@pytest.mark.parametrize(
  "table", [{"body": ["x"]}, {"text": [[1, 2]]}, {"text": [1, 2]}]
)
def test_parquet_without_a_text_column_is_refused(tmp_path, table):
  path = tmp_path / "a.parquet"
  pyarrow.parquet.write_table(pyarrow.table(table), path)
  with pytest.raises(ValueError, match='string column "text"'):
    list(_file(path).documents())


def test_parquet_dictionaries_and_nulls_are_read(tmp_path):
  path = tmp_path / "a.parquet"
  text = pyarrow.array(["a", "b", "a", None]).dictionary_encode()
  pyarrow.parquet.write_table(pyarrow.table({"text": text}), path)
  assert _read(path) == ["a", "b", "a", NULL]
  nulls = pyarrow.table({"text": pyarrow.nulls(2)})
  pyarrow.parquet.write_table(nulls, path)
  assert _read(path) == [NULL, NULL]


MUTATED = {
  ".txt.zst": zstandard.compress(b"some text\n" * 40),
  ".jsonl": b'{"text": "a"}\n{"text": "b", "n": [1, {"c": null}]}\n' * 4,
  ".json": b'[{"text": "a"}, {"text": "b", "n": [1, {"c": null}]}]',
  ".jsonl.gz": gzip.compress(b'{"text": "some text"}\n' * 40),
  ".jsonl.xz": lzma.compress(b'{"text": "some text"}\n' * 40),
  ".jsonl.bz2": bz2.compress(b'{"text": "some text"}\n' * 40),
  ".parquet": None,
}


@pytest.fixture(scope="module")
def parquet_bytes(tmp_path_factory):
  return _content(".parquet", tmp_path_factory.mktemp("parquet"))


@hypothesis.settings(
  max_examples=int(os.environ.get("DROPE_FUZZ_EXAMPLES", 25))
)
@hypothesis.given(strategies.data())
@pytest.mark.parametrize("kind", MUTATED)
def test_arbitrary_bytes_give_documents_or_an_error_naming_the_file(
  tmp_path_factory, parquet_bytes, kind, data
):
  content = bytearray(MUTATED[kind] or parquet_bytes)
  places = strategies.integers(0, len(content) - 1)
  pieces = strategies.tuples(places, strategies.binary(max_size=9))
  for place, piece in data.draw(strategies.lists(pieces, max_size=4)):
    # Overwrites, inserts or deletes.
    stop = place + data.draw(strategies.sampled_from([len(piece), 0, 1 << 20]))
    content[place:stop] = piece
  path = tmp_path_factory.getbasetemp() / f"mutated{kind}"
  path.write_bytes(content)
  try:
    documents = _read(
      path,
      skip_bad=data.draw(strategies.booleans()),
      encoding=data.draw(strategies.sampled_from(["utf-8", "utf-16"])),
    )
  except ValueError as error:
    assert str(path) in str(error)
  else:
    assert all(isinstance(d, (str, reading.Skipped)) for d in documents)
