"""Batches are a pure function of (seed, step), on any host."""

import functools
import itertools
import threading
import tracemalloc

import numpy as np
import pytest

from drope_jax.data import (
  corpus,
  packing,
  pipeline,
  sources,
  store,
  tokenizer,
  writer,
)

S = 4
SIZES = {"big": 30, "small": 11}


def _ids(first, count):
  """One document with tokens counting up from `first`."""
  return iter([range(first, first + count * S)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pipeline")
  for name, first in (("big", 100), ("small", 1000)):
    made = functools.partial(_ids, first, SIZES[name])
    writer.write(
      str(folder / name),
      [sources.Generated(name, "", made)],
      corpus.tokenizer_path(),
    )
  return folder


@pytest.fixture
def batches(folder):
  def make(
    steps, stores=("big", "small"), weights=(), document_mask=False, **options
  ):
    config = pipeline.DataConfig(stores, weights, document_mask)
    options = {
      "batch_size": 6,
      "context_tokens": S,
      "seed": 0,
      "base_dir": str(folder),
    } | options
    return list(itertools.islice(pipeline.batches(config, **options), steps))

  return make


def _assert_same(got, want):
  for a, b in zip(got, want, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def _firsts(batches):
  """The first token of each sequence, which identifies it."""
  return np.concatenate([b["inputs_BS"][:, 0] for b in batches]).tolist()


WEIGHTS = [(), (3.0, 1.0)]


@pytest.mark.parametrize("document_mask", [False, True])
def test_batches_hold_the_packed_sequences(batches, tmp_path, document_mask):
  documents = [range(i, i + 7) for i in range(100, 600, 7)]
  made = sources.Generated("short", "", functools.partial(iter, documents))
  short = writer.write(str(tmp_path / "s"), [made], corpus.tokenizer_path())
  (batch,) = batches(1, stores=(short.path,), document_mask=document_mask)
  chunks = [
    packing.begin_chunk(short, i, S, document_mask)()
    for i in range(packing.num_chunks(short.num_tokens, S))
  ]
  by_content = {chunk["targets_S"].tobytes(): chunk for chunk in chunks}
  for row in range(6):
    want = by_content[batch["targets_BS"][row].tobytes()]
    for name, value in want.items():
      got = batch[name.removesuffix("S") + "BS"][row]
      np.testing.assert_array_equal(got, value)
      assert got.dtype == value.dtype
  assert (batch["weights_BS"] == 0).any() == document_mask


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_batch_depends_only_on_seed_and_step(batches, weights):
  want = batches(20, weights=weights)
  _assert_same(batches(20, weights=weights), want)
  assert _firsts(batches(20, weights=weights, seed=1)) != _firsts(want)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("start", [1, 7, 19])
def test_resuming_is_seeking(batches, weights, start):
  whole = batches(20, weights=weights)
  resumed = batches(20 - start, weights=weights, start_sequence=6 * start)
  _assert_same(resumed, whole[start:])


@pytest.fixture
def reads(monkeypatch):
  """Records what this thread does: starting a read, and waiting for it."""
  log, here = [], threading.current_thread()
  begin = store.Store.begin_read

  def logged(self, start, stop):
    if threading.current_thread() is not here:
      return begin(self, start, stop)
    log.append("begun")
    wait = begin(self, start, stop)
    return lambda: (log.append("waited"), wait())[1]

  monkeypatch.setattr(store.Store, "begin_read", logged)
  return log


@pytest.mark.parametrize("weights", WEIGHTS)
def test_seeking_reads_only_the_requested_batch(batches, reads, weights):
  for start in (0, 6 * 10**15):
    reads.clear()
    batches(1, weights=weights, start_sequence=start)
    assert reads.count("begun") == 6


def test_the_rows_of_a_batch_are_read_together(batches, reads):
  batches(2)
  assert reads == (["begun"] * 6 + ["waited"] * 6) * 2


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_parts_of_all_hosts_form_the_batch_of_one_host(
  batches, weights, count
):
  want = batches(5, weights=weights, start_sequence=20)
  hosts = [
    batches(
      5,
      weights=weights,
      start_sequence=20,
      part=i,
      parts=count,
    )
    for i in range(count)
  ]
  assert hosts[0][0]["inputs_BS"].shape == (6 // count, S)
  joined = [
    {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for parts in zip(*hosts, strict=True)
  ]
  _assert_same(joined, want)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("batch_size", [1, 4, 15])
def test_every_batch_size_reads_the_same_stream(batches, weights, batch_size):
  want = _firsts(batches(20, weights=weights, start_sequence=5))
  cut = batches(
    120 // batch_size, weights=weights, start_sequence=5, batch_size=batch_size
  )
  assert _firsts(cut) == want


@pytest.mark.parametrize("prefetch_batches", [3, 7])
def test_batches_do_not_depend_on_workers(batches, prefetch_batches):
  want = batches(30, weights=(3.0, 1.0))
  got = batches(
    30, weights=(3.0, 1.0), workers=3, prefetch_batches=prefetch_batches
  )
  _assert_same(got, want)


def test_worker_threads_do_all_reading(batches, monkeypatch):
  readers, read = set(), store.Store.begin_read

  def watched(self, start, stop):
    readers.add(threading.current_thread())
    return read(self, start, stop)

  monkeypatch.setattr(store.Store, "begin_read", watched)
  batches(2, workers=0)
  assert threading.current_thread() in readers
  readers.clear()
  batches(2, workers=2)
  assert readers and threading.current_thread() not in readers


def test_every_epoch_reads_each_sequence_once_in_a_new_order(batches):
  total = sum(SIZES.values())
  # An epoch of 41 sequences does not end with a batch of 6.
  firsts = _firsts(batches(total))
  epochs = [firsts[i * total : (i + 1) * total] for i in range(6)]
  everything = {100 + S * i for i in range(SIZES["big"])}
  everything |= {1000 + S * i for i in range(SIZES["small"])}
  for epoch in epochs:
    assert len(epoch) == total and set(epoch) == everything
  assert len(set(map(tuple, epochs))) == 6


def test_the_order_of_a_trillion_tokens_takes_no_memory(folder, monkeypatch):
  count = 10**9
  monkeypatch.setattr(packing, "num_chunks", lambda *args: count)
  seen = []

  def begin_chunk(opened, index, **options):
    seen.append(index)
    return lambda: {"inputs_S": np.zeros(1)}

  monkeypatch.setattr(packing, "begin_chunk", begin_chunk)
  config = pipeline.DataConfig((str(folder / "big"),))
  options = {"batch_size": 1024, "context_tokens": S, "seed": 0}
  tracemalloc.start()
  for start in (0, 10**8):
    next(pipeline.batches(config, start_sequence=start, **options))
  peak_bytes = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak_bytes < 1e7, "a table of 10**9 places takes gigabytes"
  assert len(set(seen)) == len(seen) == 2048 and max(seen) < count
  # A batch is drawn from the whole store.
  shares = np.histogram(seen, bins=8, range=(0, count))[0] / len(seen)
  np.testing.assert_allclose(shares, 1 / 8, atol=0.05)


def test_consecutive_seeds_share_no_epoch(batches):
  total = sum(SIZES.values())
  epochs = []
  for seed in range(3):
    firsts = _firsts(batches(total, seed=seed))
    epochs += [tuple(firsts[i * total : (i + 1) * total]) for i in range(6)]
  assert len(set(epochs)) == 18


def test_weights_are_the_shares_of_the_stores(batches):
  firsts = np.array(_firsts(batches(100, weights=(3.0, 1.0))))
  assert abs((firsts < 1000).mean() - 0.75) < 0.01
  # Within each store an epoch is still a permutation.
  small = firsts[firsts >= 1000]
  for i in range(len(small) // SIZES["small"]):
    epoch = small[i * SIZES["small"] : (i + 1) * SIZES["small"]]
    assert len(set(epoch)) == SIZES["small"]


def test_paths_are_absolute_or_relative_to_base_dir(batches, folder):
  want = batches(3, stores=("big",))
  absolute = (str(folder / "big"),)
  _assert_same(batches(3, stores=absolute, base_dir="/nowhere"), want)
  _assert_same(batches(3, stores=absolute, base_dir=None), want)


def test_unequal_hosts_are_refused(batches):
  with pytest.raises(ValueError, match="batch of 6 for 4 parts"):
    batches(1, parts=4)


def test_a_context_above_a_store_is_refused(batches):
  with pytest.raises(
    ValueError, match="needs 46 tokens, got a store of only 45"
  ):
    batches(1, context_tokens=45)
  batches(1, context_tokens=44)


def test_an_absent_store_is_named(batches):
  with pytest.raises(FileNotFoundError, match="medium, which does not exist"):
    batches(1, stores=("big", "medium"))


def test_stores_of_two_tokenizers_are_refused(folder, tmp_path):
  other = tokenizer.train_sentencepiece(
    ["the whale and the sea"], 280, str(tmp_path / "other.model")
  )
  made = sources.Generated("ids", "", functools.partial(_ids, 3, 9))
  writer.write(str(tmp_path / "s"), [made], other.path)
  config = pipeline.DataConfig((str(folder / "big"), str(tmp_path / "s")))
  name = other.fingerprint[:12]
  with pytest.raises(ValueError, match=f"same tokenizer.*{name}"):
    pipeline.open_stores(config)


@pytest.mark.parametrize(
  "stores,weights,message",
  [
    ((), (), "at least one token store"),
    (("a", "b"), (1.0,), "one weight for each of the 2 stores"),
    (("a", "b"), (1.0, 0.0), "positive"),
    (("a",), (float("nan"),), "positive"),
  ],
)
def test_invalid_configs_are_refused(stores, weights, message):
  with pytest.raises(ValueError, match=message):
    pipeline.DataConfig(stores, weights)
