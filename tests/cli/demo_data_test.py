import dataclasses
import re

import numpy as np
import pytest

from drope_jax.cli import configure, demo_data
from drope_jax.data import corpus, tokenizer
from drope_jax.data import store as data_store
from drope_jax.train.phases import TrainPhase
from drope_jax.train.recipe import Recipe

COUNT = 6


@pytest.fixture
def write(monkeypatch, tmp_path):
  """Writes the stores of 6 documents each, over two addresses."""
  few = {
    name: dataclasses.replace(store, count=COUNT)
    for name, store in demo_data.STORES.items()
  }
  texts = list(corpus.documents("test"))[:2]
  monkeypatch.setattr(demo_data, "STORES", few)
  monkeypatch.setattr(corpus, "documents", lambda split: iter(texts))

  def run(folder, **others):
    demo_data.write(tmp_path / folder, tuple(few), **others)
    return {
      name: data_store.Store.open(str(tmp_path / folder / name))
      for name in ("text", *few)
    }

  return run


def test_every_document_starts_at_a_multiple_of_its_tokens(write):
  for name, store in write("all").items():
    if name != "text":
      tokens = demo_data.STORES[name].tokens
      np.testing.assert_array_equal(
        store.boundaries, tokens * np.arange(COUNT + 1)
      )


def test_a_smaller_store_has_the_first_documents(write):
  whole, cut = write("all"), write("cut", max_documents=2)
  for name in demo_data.STORES:
    assert cut[name].num_documents == 2
    n = cut[name].num_tokens
    np.testing.assert_array_equal(cut[name].read(0, n), whole[name].read(0, n))
  assert cut["text"].fingerprint == whole["text"].fingerprint


def test_documents_ask_for_their_needles(write):
  decode = tokenizer.load(corpus.tokenizer_path()).decode
  question = r" Which magic word goes with (\w+)\? Magic word: \1 (\w+)\."
  for name, store in write("all").items():
    if name not in demo_data.NEEDLE_STORES:
      continue
    documents = demo_data.STORES[name].documents
    ids = store.read(0, store.num_tokens).reshape(COUNT, -1)
    for text in map(decode, ids.tolist()):
      asked = re.findall(question, text)
      assert text.count("Which magic") == len(asked) == len(set(asked)) > 0
      rest = re.sub(question, "", text)
      hidden = re.findall(r" Magic word: (\w+) (\w+)\.", rest)
      assert set(asked) <= set(hidden)
      assert len(hidden) - len(set(hidden)) == documents.restatements


def test_a_finished_store_is_not_written_again(write, tmp_path):
  write("all")
  files = [path for path in tmp_path.rglob("*") if path.is_file()]
  stamps = {path: path.stat().st_mtime_ns for path in files}
  named = []
  write("all", on_store=named.append)
  assert named == ["text", *demo_data.STORES]
  assert stamps == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("name", ["demo_base", "demo_drope", "demo_live"])
def test_no_sequence_of_the_demo_cuts_a_needle_document(name):
  recipe = configure.build(f"recipes/{name}.gin", Recipe)
  phases = [p for p in recipe.phases if isinstance(p, TrainPhase)]
  read = [
    (demo_data.STORES[store].tokens, phase.context_tokens)
    for phase in phases
    for store in phase.data.stores
    if store != "text"
  ]
  assert len(read) == len(phases)
  assert all(tokens % context == 0 for tokens, context in read)
