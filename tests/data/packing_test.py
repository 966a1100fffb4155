"""Packing: cut every S tokens, and each token is a target once."""

import functools

import numpy as np
import pytest

from drope_jax.data import corpus, packing, sources, writer

EOS = 2
DOCUMENTS = [[10, 11, 12], [20], [30, 31, 32, 33, 34, 35], [40, 41]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  source = sources.Generated("ids", "", functools.partial(iter, DOCUMENTS))
  out = str(tmp_path_factory.mktemp("packing") / "store")
  return writer.write(out, [source], corpus.tokenizer_path())


def _chunks(made, S, document_mask=False):
  count = packing.num_chunks(made.num_tokens, S)
  return [
    packing.begin_chunk(made, i, S, document_mask)() for i in range(count)
  ]


@pytest.mark.parametrize("S", [1, 3, 4, 5, 15])
def test_concatenated_chunks_are_the_documents_joined_by_eos(made, S):
  stream = [t for document in DOCUMENTS for t in [*document, EOS]]
  chunks = _chunks(made, S)
  assert len(chunks) == (len(stream) - 1) // S
  inputs = np.concatenate([c["inputs_S"] for c in chunks])
  targets = np.concatenate([c["targets_S"] for c in chunks])
  assert inputs.tolist() == stream[: len(inputs)]
  assert targets.tolist() == stream[1 : len(inputs) + 1]


def test_a_store_of_one_token_less_has_one_chunk_less():
  assert packing.num_chunks(17, 8) == 2
  assert packing.num_chunks(16, 8) == 1
  assert packing.num_chunks(8, 8) == packing.num_chunks(0, 8) == 0


def test_without_a_mask_there_is_one_segment_of_weight_one(made):
  for chunk in _chunks(made, 5):
    assert chunk["segments_S"].tolist() == [1] * 5
    assert chunk["weights_S"].tolist() == [1.0] * 5


@pytest.mark.parametrize("S", [3, 5, 15])
def test_the_mask_numbers_documents_and_weights_targets_within_them(made, S):
  # A token's tens are its document; EOS belongs to the one it ends.
  stream = [t for document in DOCUMENTS for t in [*document, EOS]]
  owners, owner = [], 10
  for token in stream:
    owners.append(owner)
    owner += 10 * (token == EOS)
  crossings = 0
  for i, chunk in enumerate(_chunks(made, S, document_mask=True)):
    own = np.array(owners[i * S : i * S + S + 1])
    _, want = np.unique(own, return_inverse=True)
    assert chunk["segments_S"].tolist() == (want[:-1] + 1).tolist()
    assert chunk["weights_S"].tolist() == (own[1:] == own[:-1]).tolist()
    crossings += S - chunk["weights_S"].sum()
  assert crossings, "no target crossed a document; the test proves nothing"
