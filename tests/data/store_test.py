"""Opening stores: damage is reported and never read."""

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np
import pytest

from drope_jax import artifacts
from drope_jax.data import corpus, metadata, sources, store, writer

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
  assert metadata.token_dtype(65_536) == np.dtype("<u2")
  assert metadata.token_dtype(65_537) == np.dtype("<u4")


def test_zeros_are_data_and_not_damage(tmp_path):
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
  with pytest.raises(ValueError, match="complete token store"):
    damaged.read(0, damaged.num_tokens)
  with pytest.raises(ValueError, match="complete token store"):
    damaged.verify()


def test_verify_finds_content_of_another_store(made):
  made.verify()
  other = dataclasses.replace(made.metadata, fingerprint="0" * 64)
  _rewrite(made, metadata.encode(other))
  with pytest.raises(ValueError, match="content with sha256"):
    store.Store.open(made.path).verify()


@pytest.mark.parametrize(
  "text", ["", "{}", "[]", '{"schema_version": 4}', "[" * 99_999, "\xff"]
)
def test_metadata_that_does_not_parse_is_refused(made, text):
  _rewrite(made, text.encode("latin-1"))
  with pytest.raises(ValueError, match="damaged metadata.json"):
    store.Store.open(made.path)


CHANGES = [
  ("num_tokens", 100_000),
  ("num_documents", 2),
  ("vocab_size", 4096),
  ("eos_id", 1),
  ("plan", "0" * 64),
]


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_metadata_with_a_changed_value_is_refused(made, field, value):
  fields = json.loads(metadata.encode(made.metadata))
  _rewrite(made, json.dumps(fields | {field: value}).encode())
  with pytest.raises(ValueError, match="do not match its checksum"):
    store.Store.open(made.path)


def test_a_store_of_version_2_opens_and_has_no_provenance(made):
  fields = json.loads(metadata.encode(made.metadata))
  del fields["checksum"], fields["provenance"]
  fields["schema_version"] = 2
  checksum = metadata._checksum(fields)
  _rewrite(made, json.dumps(fields | {"checksum": checksum}).encode())
  assert store.Store.open(made.path).metadata == made.metadata
  _rewrite(made, json.dumps(fields).encode())
  with pytest.raises(ValueError, match="do not match its checksum"):
    store.Store.open(made.path)


def _without_checksum(made, **changes):
  """Writes the metadata as version 1 did."""
  fields = json.loads(metadata.encode(made.metadata))
  del fields["checksum"]
  fields |= {"schema_version": 1} | changes
  _rewrite(made, json.dumps(fields).encode())


def test_a_store_of_version_1_opens_without_a_checksum(made):
  _without_checksum(made)
  opened = store.Store.open(made.path)
  assert opened.metadata == made.metadata
  opened.verify()
  _without_checksum(made, schema_version=artifacts.VERSION)
  with pytest.raises(ValueError, match="do not match its checksum"):
    store.Store.open(made.path)


@pytest.mark.parametrize(
  ("changes", "got"),
  [
    ({"num_tokens": 100_000}, r"tokens of uint16 \[120003\].*\[100000\]"),
    ({"vocab_size": 70_000}, "tokens of uint16.*uint32"),
    ({"vocab_size": 2}, "eos_id 2 in a vocabulary of 2"),
    ({"eos_id": -1}, "eos_id -1"),
    ({"eos_id": 2048}, "eos_id 2048"),
    ({"eos_id": "2"}, "eos_id of '2'"),
    ({"num_documents": 0}, "in 0 documents"),
    ({"num_documents": True}, "num_documents of True"),
    ({"file_bytes": {"tokens/c/0": "9"}}, "file_bytes of"),
  ],
)
def test_impossible_metadata_is_refused(made, changes, got):
  _without_checksum(made, **changes)
  with pytest.raises(ValueError, match=f"complete token store.*{got}"):
    store.Store.open(made.path)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"more": 1}, "Metadata has no field more"),
    ({"schema_version": 99}, r"got a Metadata file of .*\(schema_version 99\)"),
  ],
)
def test_the_error_for_a_later_version_does_not_advise_deletion(
  made, changes, says
):
  _without_checksum(made, **changes)
  with pytest.raises(ValueError, match=f"{made.path}.*{says}") as error:
    store.Store.open(made.path)
  assert "Install" in str(error.value) and "Delete" not in str(error.value)


def _put(made, name, values):
  """Writes another array in place of one of the store's."""
  array = store.create_array(made.path, name, len(values), values.dtype)
  array.write(values).result()
  names = made.metadata.file_bytes
  sizes = store.file_bytes(made.path, names)
  changed = dataclasses.replace(made.metadata, file_bytes=sizes)
  _rewrite(made, metadata.encode(changed))
  return store.Store.open(made.path)


@pytest.mark.parametrize("wrong", [2048, 65_535])
def test_an_id_outside_the_vocabulary_is_named_where_it_is_read(made, wrong):
  tokens, _ = _content()
  tokens[70_000] = wrong
  changed = _put(made, "tokens", tokens)
  changed.read(0, 70_000)
  says = f"{made.path}.*the id {wrong} at token 70000, in document 1.*has 2048"
  with pytest.raises(ValueError, match=says):
    changed.read(60_000, 80_000)
  with pytest.raises(ValueError, match=says):
    changed.verify()


@pytest.mark.parametrize("place", [0, 1, 3])
def test_boundaries_out_of_order_are_refused(made, place):
  _, boundaries = _content()
  boundaries[place] = [1, 80_002, 0, 120_002][place]
  changed = _put(made, "boundaries", boundaries)
  with pytest.raises(ValueError, match="increase from 0 to 120003"):
    changed.boundaries  # noqa: B018


def _rewrite(made, data):
  (pathlib.Path(made.path) / "metadata.json").write_bytes(data)


def test_a_missing_or_unfinished_store_is_refused(made, tmp_path):
  with pytest.raises(FileNotFoundError, match="does not exist"):
    store.Store.open(str(tmp_path / "absent"))
  (tmp_path / "store" / "metadata.json").unlink()
  with pytest.raises(ValueError, match="resumes"):
    store.Store.open(made.path)


@pytest.mark.parametrize("start,stop", [(-1, 5), (5, 3), (0, 120_004)])
def test_a_range_outside_the_store_is_refused(made, start, stop):
  with pytest.raises(ValueError, match=f"got {start} to {stop}"):
    made.read(start, stop)
