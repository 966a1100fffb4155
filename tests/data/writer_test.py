"""Writing stores: resumed or parallel equals uninterrupted."""

import functools
import os
import pathlib

import numpy as np
import pytest

from drope_jax.data import corpus, sources, store, tokenizer, writer

TOKENIZER = corpus.tokenizer_path()
TEXTS = [["the whale", "", "a ship\n" * 9], ["gold"], [], ["sea", "land"]]


def _texts(texts, log=None, broken=None):
  """Yields texts; `log` records the call, `broken` says how it fails."""
  if log:
    with open(log, "a") as file:
      file.write("read\n")
  yield from texts
  if broken and os.path.exists(broken):
    os._exit(1)


def _sources(log=None, broken=None):
  return [
    sources.Generated(
      str(i),
      repr(texts),
      functools.partial(
        _texts, texts, log and f"{log}{i}", broken if i == 3 else None
      ),
    )
    for i, texts in enumerate(TEXTS)
  ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  out = tmp_path_factory.mktemp("whole") / "store"
  return writer.write(str(out), _sources(), TOKENIZER)


def test_documents_end_in_eos_and_empty_ones_are_left_out(whole):
  tok = tokenizer.load(TOKENIZER)
  want = [t for texts in TEXTS for t in texts if t]
  bounds = whole.boundaries
  documents = [
    whole.read(a, b).tolist()
    for a, b in zip(bounds[:-1], bounds[1:], strict=True)
  ]
  assert [d[-1] for d in documents] == [tok.eos_id] * len(want)
  assert [tok.decode(d[:-1]) for d in documents] == want


def test_ids_are_stored_as_they_are_and_end_once(tmp_path):
  eos_id = tokenizer.load(TOKENIZER).eos_id
  made = functools.partial(iter, [[5, 6, eos_id], [7], []])
  ids = sources.Generated("ids", "", made)
  got = writer.write(str(tmp_path / "s"), [ids], TOKENIZER)
  assert got.read(0, got.num_tokens).tolist() == [5, 6, eos_id, 7, eos_id]


def test_ids_of_another_vocabulary_are_refused(tmp_path):
  ids = sources.Generated("ids", "", functools.partial(iter, [[5, 2048]]))
  with pytest.raises(ValueError, match="below the tokenizer's 2048"):
    writer.write(str(tmp_path / "s"), [ids], TOKENIZER)


def test_content_does_not_depend_on_workers(tmp_path, whole):
  got = writer.write(str(tmp_path / "s"), _sources(), TOKENIZER, workers=2)
  assert got.fingerprint == whole.fingerprint
  got.verify()


def test_killed_worker_leaves_an_unfinished_store_that_resumes(tmp_path, whole):
  out, log, broken = (str(tmp_path / n) for n in ("store", "log", "broken"))
  pathlib.Path(broken).touch()
  with pytest.raises(ValueError, match="got one killed"):
    writer.write(out, _sources(log, broken), TOKENIZER, workers=2)
  with pytest.raises(ValueError, match="finished token store is needed"):
    store.Store.open(out)
  os.remove(broken)
  got = writer.write(out, _sources(log), TOKENIZER)
  assert got.fingerprint == whole.fingerprint


def test_resuming_reads_only_the_sources_that_are_missing(tmp_path, whole):
  out, log = str(tmp_path / "store"), str(tmp_path / "log")

  def stop_at_the_third(num_tokens):
    if os.path.exists(f"{log}2"):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    writer.write(out, _sources(log), TOKENIZER, on_part=stop_at_the_third)
  assert not os.path.exists(f"{log}3"), "it was not interrupted"
  seen = []
  got = writer.write(out, _sources(log), TOKENIZER, on_part=seen.append)
  assert [
    pathlib.Path(f"{log}{i}").read_text().count("read") for i in range(4)
  ] == [1] * 4
  assert sum(seen) == got.num_tokens and len(seen) == 4
  assert got.fingerprint == whole.fingerprint


@pytest.mark.parametrize("name", ["tokens", "boundaries"])
def test_killed_while_joining_resumes(tmp_path, whole, monkeypatch, name):
  out, create = str(tmp_path / "store"), store.create_array

  def interrupted(path, array, length, dtype):
    made = create(path, array, length, dtype)
    if array == name:
      raise KeyboardInterrupt
    return made

  monkeypatch.setattr(store, "create_array", interrupted)
  with pytest.raises(KeyboardInterrupt):
    writer.write(out, _sources(), TOKENIZER)
  with pytest.raises(ValueError, match="finished token store is needed"):
    store.Store.open(out)
  monkeypatch.undo()
  got = writer.write(out, _sources(), TOKENIZER)
  assert got.fingerprint == whole.fingerprint
  assert not (tmp_path / "store" / "parts").exists()


def test_joining_in_many_files_gives_the_same_tokens(
  tmp_path, whole, monkeypatch
):
  monkeypatch.setattr(store, "FILE_TOKENS", 8)
  monkeypatch.setattr(store, "READ_TOKENS", 4)
  got = writer.write(str(tmp_path / "s"), _sources(), TOKENIZER)
  assert len(got.metadata.file_bytes) > 4, "there is one file after all"
  assert got.fingerprint == whole.fingerprint
  np.testing.assert_array_equal(
    got.read(3, got.num_tokens - 1), whole.read(3, whole.num_tokens - 1)
  )
  got.verify()


def test_a_finished_store_is_returned_as_it_is(tmp_path):
  out, log = str(tmp_path / "store"), str(tmp_path / "log")
  for _ in range(2):
    writer.write(out, _sources(log), TOKENIZER)
  assert pathlib.Path(f"{log}0").read_text().count("read") == 1


def test_a_folder_with_something_else_is_refused(tmp_path):
  out = tmp_path / "store"
  writer.write(str(out), _sources(), TOKENIZER)
  with pytest.raises(ValueError, match="a finished store of other inputs"):
    writer.write(str(out), _sources()[1:], TOKENIZER)
  (out / "metadata.json").unlink()
  with pytest.raises(ValueError, match="other files"):
    writer.write(str(out), _sources(), TOKENIZER)


def test_an_unfinished_store_of_other_inputs_is_refused(tmp_path):
  out = str(tmp_path / "store")

  def stop(num_tokens):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    writer.write(out, _sources(), TOKENIZER, on_part=stop)
  with pytest.raises(ValueError, match="an unfinished store of other inputs"):
    writer.write(out, _sources()[1:], TOKENIZER)


def test_inputs_without_text_are_refused(tmp_path):
  with pytest.raises(ValueError, match="without a character"):
    writer.write(str(tmp_path / "s"), [_sources()[2]], TOKENIZER)
