"""Writing stores: resumed or parallel equals uninterrupted."""

import functools
import multiprocessing
import pathlib

import numpy as np
import pytest

from drope_jax.data import corpus, encode, sources, store, tokenizer, writer

TOKENIZER = corpus.tokenizer_path()
TEXTS = [["the whale", "", "a ship\n" * 9], ["gold"], [], ["sea", "land"]]


def _texts(texts, index, on_read):
  for text in texts:
    on_read(index)
    yield text


def _sources(on_read=lambda index: None):
  """The sources; `on_read` is called with each document's source."""
  return [
    sources.Generated(
      str(i), repr(texts), functools.partial(_texts, texts, i, on_read)
    )
    for i, texts in enumerate(TEXTS)
  ]


@pytest.fixture(params=["large", "small"])
def parts(request, monkeypatch):
  """Makes a batch, and a part, hold one document or all."""
  if request.param == "small":
    monkeypatch.setattr(writer, "_BATCH_SIZE", 1)
    monkeypatch.setattr(writer, "_PART_TOKENS", 1)


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


def test_ids_are_stored_unchanged_with_one_eos(tmp_path):
  eos_id = tokenizer.load(TOKENIZER).eos_id
  made = functools.partial(iter, [[5, 6, eos_id], [7], []])
  ids = sources.Generated("ids", "", made)
  got = writer.write(str(tmp_path / "s"), [ids], TOKENIZER)
  assert got.read(0, got.num_tokens).tolist() == [5, 6, eos_id, 7, eos_id]


@pytest.mark.parametrize("wrong", [2048, -1])
def test_ids_of_another_vocabulary_are_refused(tmp_path, wrong):
  ids = sources.Generated("ids", "", functools.partial(iter, [[5, wrong]]))
  says = f"from 0 to 2047, got {wrong} from ids"
  with pytest.raises(ValueError, match=says):
    writer.write(str(tmp_path / "s"), [ids], TOKENIZER)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_content_does_not_depend_on_workers(tmp_path, whole, parts, workers):
  out = str(tmp_path / "s")
  got = writer.write(out, _sources(), TOKENIZER, workers=workers)
  assert got.fingerprint == whole.fingerprint
  got.verify()


def test_killed_worker_leaves_an_unfinished_store_that_resumes(
  tmp_path, whole, monkeypatch
):
  monkeypatch.setattr(writer, "_BATCH_SIZE", 1)
  out, others = str(tmp_path / "store"), multiprocessing.active_children()

  def kill_a_worker(index):
    if index == 3:
      workers = set(multiprocessing.active_children()) - set(others)
      workers.pop().kill()

  with pytest.raises(ValueError, match="got one killed.*resumes"):
    writer.write(out, _sources(kill_a_worker), TOKENIZER, workers=2)
  assert set(multiprocessing.active_children()) <= set(others)
  with pytest.raises(ValueError, match="finished token store is needed"):
    store.Store.open(out)
  got = writer.write(out, _sources(), TOKENIZER)
  assert got.fingerprint == whole.fingerprint


def test_resuming_encodes_only_what_is_missing(tmp_path, whole, monkeypatch):
  monkeypatch.setattr(writer, "_BATCH_SIZE", 1)
  monkeypatch.setattr(writer, "_PART_TOKENS", 1)
  out, encoded, read = str(tmp_path / "store"), [], []
  encode_batch = tokenizer.SentencePieceTokenizer.encode_batch

  def recorded(self, texts):
    encoded.extend(texts)
    return encode_batch(self, texts)

  monkeypatch.setattr(
    tokenizer.SentencePieceTokenizer, "encode_batch", recorded
  )

  def stop_in_the_first(sources, tokens):
    if encoded[-1:] == [TEXTS[0][2]]:
      raise KeyboardInterrupt

  def stop_after_the_third(sources, tokens):
    if sources == 3:
      raise KeyboardInterrupt

  for stop in (stop_in_the_first, stop_after_the_third):
    with pytest.raises(KeyboardInterrupt):
      writer.write(out, _sources(), TOKENIZER, on_progress=stop)
  seen = []
  got = writer.write(
    out,
    _sources(read.append),
    TOKENIZER,
    on_progress=lambda *progress: seen.append(progress),
  )
  assert encoded == [text for texts in TEXTS for text in texts]
  assert 0 not in read
  assert seen[0][1] > 0 and seen[-1] == (4, got.num_tokens)
  assert seen == sorted(seen)
  assert got.fingerprint == whole.fingerprint


def test_a_large_source_is_encoded_piece_by_piece(tmp_path, monkeypatch):
  sizes, encode_one = [], encode.encode

  def recorded(batch, tokenizer):
    sizes.append(sum(map(len, batch.documents)))
    return encode_one(batch, tokenizer)

  monkeypatch.setattr(encode, "encode", recorded)
  monkeypatch.setattr(writer, "_BATCH_SIZE", 100)
  made = functools.partial(iter, ["the whale "] * 200)
  large = sources.Generated("large", "", made)
  writer.write(str(tmp_path / "s"), [large], TOKENIZER)
  assert sizes == [100] * 20 + [0]


def test_small_sources_are_encoded_together(tmp_path, monkeypatch):
  batches, encode_one = [], encode.encode

  def recorded(batch, tokenizer):
    batches.append((len(batch.documents), batch.name, batch.next_source))
    return encode_one(batch, tokenizer)

  monkeypatch.setattr(encode, "encode", recorded)
  monkeypatch.setattr(writer, "_BATCH_SIZE", 100)
  made = functools.partial(iter, ["the whale "])
  small = [sources.Generated(str(i), "", made) for i in range(25)]
  writer.write(str(tmp_path / "s"), small, TOKENIZER)
  assert batches == [
    (10, "0 to 9", 9),
    (10, "9 to 19", 19),
    (5, "19 to 24", 25),
  ]


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


def test_a_finished_store_is_returned_unchanged(tmp_path):
  out, read = str(tmp_path / "store"), []
  for _ in range(2):
    writer.write(out, _sources(read.append), TOKENIZER)
    # As if the command was killed before it removed them.
    (tmp_path / "store" / "parts").mkdir()
  writer.write(out, _sources(read.append), TOKENIZER)
  assert len(read) == sum(map(len, TEXTS))
  assert not (tmp_path / "store" / "parts").exists()


def test_a_path_at_home_and_one_of_the_package(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  made = writer.write(pathlib.Path("~/s"), _sources(), TOKENIZER)
  assert made.path == str(tmp_path / "s")
  assert store.Store.open("~/s").fingerprint == made.fingerprint
  for path, says in (("packaged:s", "not written to, got pack"), ("", "empty")):
    with pytest.raises(ValueError, match=says):
      writer.write(path, _sources(), TOKENIZER)


def test_what_is_before_a_document_that_cannot_be_read_is_kept(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(writer, "_BATCH_SIZE", 1)
  out = tmp_path / "s"

  def bad(index):
    if index == 3:
      raise ValueError("a damaged document")

  with pytest.raises(ValueError, match="a damaged document"):
    writer.write(str(out), _sources(bad), TOKENIZER)
  assert len([*(out / "parts").glob("*.npz")]) == 1
  read = []
  writer.write(str(out), _sources(read.append), TOKENIZER)
  assert {*read} == {1, 3}  # The first, to find its end.


def test_a_folder_with_other_files_is_refused(tmp_path):
  out = tmp_path / "store"
  writer.write(str(out), _sources(), TOKENIZER)
  with pytest.raises(ValueError, match="a finished store of other inputs"):
    writer.write(str(out), _sources()[1:], TOKENIZER)
  (out / "metadata.json").unlink()
  with pytest.raises(ValueError, match="other files"):
    writer.write(str(out), _sources(), TOKENIZER)


def test_an_unfinished_store_of_other_inputs_is_refused(tmp_path):
  out = str(tmp_path / "store")

  def stop(sources, tokens):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    writer.write(out, _sources(), TOKENIZER, on_progress=stop)
  with pytest.raises(ValueError, match="an unfinished store of other inputs"):
    writer.write(out, _sources()[1:], TOKENIZER)


def test_an_unfinished_store_of_another_version_is_refused(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(writer, "_PART_TOKENS", 1)
  out = tmp_path / "store"

  def stop(sources, tokens):
    if tokens:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    writer.write(str(out), _sources(), TOKENIZER, on_progress=stop)
  (part,) = (out / "parts").glob("*.npz")
  with np.load(part) as saved:
    older = {name: saved[name] for name in saved if name != "next"}
  np.savez(part, **older)
  with pytest.raises(ValueError, match="store of another version"):
    writer.write(str(out), _sources(), TOKENIZER)


def test_inputs_without_text_are_refused(tmp_path):
  with pytest.raises(ValueError, match="only empty inputs"):
    writer.write(str(tmp_path / "s"), [_sources()[2]], TOKENIZER)


def _ids(count):
  """Yields documents of 1, 2, 3, 1, 2, ... tokens, EOS included."""
  eos_id = tokenizer.load(TOKENIZER).eos_id
  for i in range(count):
    yield [*range(10, 10 + i % 3), eos_id]


def _ids_source(count):
  return sources.Generated("ids", "", functools.partial(_ids, count))


@pytest.mark.parametrize(("most", "got"), [(1, 1), (6, 6), (7, 7), (11, 12)])
def test_the_document_that_reaches_max_tokens_is_the_last(
  tmp_path, parts, most, got
):
  made = writer.write(
    str(tmp_path / "s"), [_ids_source(99)] * 2, TOKENIZER, max_tokens=most
  )
  assert made.num_tokens == got
  want = np.concatenate(list(_ids(99)))[:got]
  np.testing.assert_array_equal(made.read(0, got), want)


def test_max_tokens_counts_over_all_sources(tmp_path):
  made = writer.write(
    str(tmp_path / "s"), [_ids_source(3)] * 3, TOKENIZER, max_tokens=9
  )
  assert (made.num_tokens, made.num_documents) == (9, 5)


def test_another_max_tokens_makes_another_store(tmp_path):
  out = str(tmp_path / "s")
  writer.write(out, [_ids_source(9)], TOKENIZER, max_tokens=5)
  with pytest.raises(ValueError, match="a finished store of other inputs"):
    writer.write(out, [_ids_source(9)], TOKENIZER, max_tokens=6)


def test_provenance_is_kept_and_read_again(tmp_path):
  about = {"model": "m", "lineage": [{"arguments": {"rate": 0.1}}]}
  out = str(tmp_path / "s")
  writer.write(out, [_ids_source(9)], TOKENIZER, provenance=about)
  assert store.Store.open(out).metadata.provenance == about


class _Slow:
  """A source that is interrupted, and records where reading starts."""

  name = "slow"

  def __init__(self, asked, interrupted_at=()):
    self.asked, self.interrupted_at = asked, interrupted_at

  def identity(self):
    return ""

  def documents(self, first=0):
    self.asked.append(first)
    for number, ids in enumerate(_ids(20)):
      if number in self.interrupted_at:
        raise KeyboardInterrupt
      if number >= first:
        yield ids


def test_an_interrupted_source_resumes_after_its_last_batch(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(writer, "_BATCH_S", 0.0)  # One document is a batch.
  out, asked = str(tmp_path / "s"), []
  for stop in (7, 15):
    with pytest.raises(KeyboardInterrupt):
      writer.write(out, [_Slow(asked, [stop])], TOKENIZER)
  got = writer.write(out, [_Slow(asked)], TOKENIZER)
  assert asked == [0, 7, 15]
  np.testing.assert_array_equal(
    got.read(0, got.num_tokens), np.concatenate(list(_ids(20)))
  )


@pytest.mark.parametrize(("part_s", "kept"), [(0.0, 12), (60.0, 0)])
def test_a_part_is_written_after_some_time(tmp_path, monkeypatch, part_s, kept):
  monkeypatch.setattr(writer, "_BATCH_S", 0.0)
  monkeypatch.setattr(writer, "_PART_S", part_s)

  def killed(sources, tokens):
    if tokens > 10:
      raise MemoryError

  out = tmp_path / "s"
  with pytest.raises(MemoryError):
    writer.write(str(out), [_ids_source(20)], TOKENIZER, on_progress=killed)
  parts = (out / "parts").glob("*.npz")
  assert sum(len(np.load(part)["tokens"]) for part in parts) == kept
