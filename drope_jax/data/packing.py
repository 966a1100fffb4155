"""Packing: training sequences cut from the stream of documents."""

import numpy as np

from drope_jax.data import store as store_lib


def num_chunks(num_tokens: int, context_tokens: int) -> int:
  """Returns how many whole sequences a store holds; the rest is not used."""
  return max(0, (num_tokens - 1) // context_tokens)


def chunk(
  store: store_lib.Store,
  index: int,
  context_tokens: int,
  document_mask: bool = False,
) -> dict[str, np.ndarray]:
  """Returns sequence `index` of the documents joined by EOS, cut every S.

  It reads S + 1 tokens from `index * S`, so neighbours share one token and
  each token but the first is a target once.

  Args:
    store: the tokens.
    index: in [0, num_chunks).
    context_tokens: S.
    document_mask: number the documents in `segments_S` 1, 2, 3, ... and give
      no weight to a target that another document's token would predict.
      Without it, all is one segment and every weight is 1.

  Returns:
    inputs_S, targets_S, segments_S (int32) and weights_S (float32).
  """
  start = index * context_tokens
  tokens = store.read(start, start + context_tokens + 1)
  segments = np.ones(context_tokens + 1, np.int32)
  if document_mask:
    positions = np.arange(start, start + context_tokens + 1)
    documents = np.searchsorted(store.boundaries, positions, side="right")
    segments += (documents - documents[0]).astype(np.int32)
  return {
    "inputs_S": tokens[:-1],
    "targets_S": tokens[1:],
    "segments_S": segments[:-1],
    "weights_S": (segments[1:] == segments[:-1]).astype(np.float32),
  }
