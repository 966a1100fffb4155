"""Packing: training sequences cut from the stream of documents."""

from collections.abc import Callable

import numpy as np

from drope_jax.data import store as store_lib


def num_chunks(num_tokens: int, context_tokens: int) -> int:
  """Returns how many whole sequences a store holds; the rest is unused."""
  return max(0, (num_tokens - 1) // context_tokens)


def begin_chunk(
  store: store_lib.Store,
  index: int,
  context_tokens: int,
  document_mask: bool = False,
) -> Callable[[], dict[str, np.ndarray]]:
  """Starts to read sequence `index` of the documents, joined by EOS.

  It reads S + 1 tokens from `index * S`. Neighboring sequences share one
  token, and each token except the store's first is a target once.

  Args:
    store: the tokens.
    index: in [0, num_chunks).
    context_tokens: S.
    document_mask: number the documents 1, 2, 3, ... in `segments_S`, and give
      weight 0 to a target in another document than its input. Without it,
      everything is one segment and every weight is 1.

  Returns:
    A function that waits for inputs_S, targets_S, segments_S (int32) and
    weights_S (float32).
  """
  start = index * context_tokens
  read = store.begin_read(start, start + context_tokens + 1)
  return lambda: _packed(store, start, read(), document_mask)


def _packed(
  store: store_lib.Store, start: int, tokens: np.ndarray, document_mask: bool
) -> dict[str, np.ndarray]:
  segments = np.ones(len(tokens), np.int32)
  if document_mask:
    positions = np.arange(start, start + len(tokens))
    documents = np.searchsorted(store.boundaries, positions, side="right")
    segments += (documents - documents[0]).astype(np.int32)
  return {
    "inputs_S": tokens[:-1],
    "targets_S": tokens[1:],
    "segments_S": segments[:-1],
    "weights_S": (segments[1:] == segments[:-1]).astype(np.float32),
  }
