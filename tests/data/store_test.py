"""Opening stores: damage is named, never read."""

import functools
import hashlib
import json

import numpy as np
import pytest

from drope_jax.data import corpus, encode, sources, store, writer

DOCUMENTS = [
  np.random.default_rng(i).integers(3, 2048, 40_000).tolist() for i in range(3)
]


@pytest.fixture
def made(tmp_path):
  source = sources.Generated("ids", "", functools.partial(iter, DOCUMENTS))
  return writer.write(
    str(tmp_path / "store"), [source], corpus.tokenizer_path()
  )


def _content():
  documents = [np.array([*d, 2], "<u2") for d in DOCUMENTS]
  boundaries = np.cumsum([0, *map(len, documents)]).astype("<i8")
  return np.concatenate(documents), boundaries


def test_store_holds_tokens_boundaries_and_their_fingerprint(made):
  tokens, boundaries = _content()
  assert (made.num_tokens, made.num_documents) == (len(tokens), 3)
  np.testing.assert_array_equal(made.boundaries, boundaries)
  got = made.read(30_000, 90_001)
  assert got.dtype == np.int32
  np.testing.assert_array_equal(got, tokens[30_000:90_001])
  content = tokens.tobytes() + boundaries.tobytes()
  assert made.fingerprint == hashlib.sha256(content).hexdigest()


def test_a_vocabulary_above_65536_is_stored_in_32_bits(tmp_path):
  array = store.create_array(str(tmp_path), "tokens", 2, np.dtype("<u4"))
  array.write(np.array([0, 70_000], "<u4")).result()
  assert array.read().result().tolist() == [0, 70_000]
  assert encode.token_dtype(65_536) == np.dtype("<u2")
  assert encode.token_dtype(65_537) == np.dtype("<u4")


def test_a_stretch_of_zeros_is_data_and_not_damage(tmp_path):
  zeros = sources.Generated("ids", "", functools.partial(iter, [[0] * 40_000]))
  made = writer.write(str(tmp_path / "store"), [zeros], corpus.tokenizer_path())
  assert made.read(0, 40_001).tolist() == [0] * 40_000 + [2]


@pytest.mark.parametrize("name", ["tokens/c/0", "boundaries/c/0"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_missing_or_short_file_is_refused(made, tmp_path, name, damage):
  file = tmp_path / "store" / name
  if damage == "missing":
    file.unlink()
  else:
    file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(ValueError, match=f"bytes of .* in {name}.*Delete it"):
    store.Store.open(made.path)


def test_changed_bytes_are_refused_when_they_are_read(made, tmp_path):
  file = tmp_path / "store" / "tokens" / "c" / "0"
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)
  damaged = store.Store.open(made.path)
  with pytest.raises(ValueError, match="whole token store"):
    damaged.read(0, damaged.num_tokens)
  with pytest.raises(ValueError, match="whole token store"):
    damaged.verify()


def test_verify_finds_content_of_another_store(made, tmp_path):
  made.verify()
  file = tmp_path / "store" / "metadata.json"
  fields = json.loads(file.read_text())
  file.write_text(json.dumps(fields | {"fingerprint": "0" * 64}))
  with pytest.raises(ValueError, match="content of sha256"):
    store.Store.open(made.path).verify()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 2}'])
def test_metadata_that_does_not_parse_is_refused(made, tmp_path, text):
  (tmp_path / "store" / "metadata.json").write_text(text)
  with pytest.raises(ValueError, match="does not parse"):
    store.Store.open(made.path)


def test_a_store_that_is_not_there_or_not_finished_is_refused(made, tmp_path):
  with pytest.raises(FileNotFoundError, match="does not exist"):
    store.Store.open(str(tmp_path / "absent"))
  (tmp_path / "store" / "metadata.json").unlink()
  with pytest.raises(ValueError, match="resumes"):
    store.Store.open(made.path)


@pytest.mark.parametrize("start,stop", [(-1, 5), (5, 3), (0, 120_004)])
def test_a_range_outside_the_store_is_refused(made, start, stop):
  with pytest.raises(ValueError, match=f"got {start} to {stop}"):
    made.read(start, stop)
