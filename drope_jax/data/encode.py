"""Documents to token ids, in parallel processes and in order.

Every worker imports this module, so it imports only what a worker needs.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal

import numpy as np
from numpy.typing import ArrayLike

from drope_jax import child
from drope_jax.data import long_texts, metadata
from drope_jax.data import tokenizer as tokenizer_lib

Document = str | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Batch:
  """Documents of some sources, and where the stream continues after them.

  Attributes:
    documents: text, or token ids.
    name: of the sources, the first and the last, for messages.
    next_source: index of the source in which the stream continues.
    next_document: how many documents of that source come before.
    skipped: how many documents were left out between these, by kind.
  """

  documents: list[Document]
  name: str
  next_source: int
  next_document: int
  skipped: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A batch's documents as ids, each ended by EOS, without the empty ones.

  Attributes:
    tokens: ids of all documents, in the store's dtype.
    lengths: of each document, int64, EOS included.
    next_source: as in `Batch`.
    next_document: as in `Batch`.
    skipped: as in `Batch`, with the "empty" ones added.
  """

  tokens: np.ndarray
  lengths: np.ndarray
  next_source: int
  next_document: int
  skipped: Counter[str]


def encode(batch: Batch, tokenizer: tokenizer_lib.Tokenizer) -> Encoded:
  """Returns the ids of a batch.

  Raises:
    ValueError: an id is not in the tokenizer's vocabulary.
  """
  documents = batch.documents
  if texts := [text for text in documents if isinstance(text, str)]:
    documents = _encode_texts(texts, tokenizer)
  eos_id, dtype = tokenizer.eos_id, metadata.token_dtype(tokenizer.vocab_size)
  ended = [
    ids if ids[-1] == eos_id else np.append(ids, eos_id)
    for ids in map(np.asarray, documents)
    if len(ids)
  ]
  lengths = np.array([*map(len, ended)], np.int64)
  tokens = np.concatenate([np.zeros(0, np.int64), *ended])
  wrong = (tokens < 0) | (tokens >= tokenizer.vocab_size)
  if wrong.any():
    raise ValueError(
      f"Token ids must be from 0 to {tokenizer.vocab_size - 1}, got "
      f"{tokens[wrong.argmax()]} from {batch.name}. Encode the documents with "
      "this tokenizer."
    )
  return Encoded(
    tokens.astype(dtype),
    lengths,
    batch.next_source,
    batch.next_document,
    batch.skipped + Counter(empty=len(documents) - len(ended)),
  )


def _encode_texts(
  texts: Sequence[str], tokenizer: tokenizer_lib.Tokenizer
) -> list[ArrayLike]:
  limit = 2 * long_texts.PIECE
  short = iter(tokenizer.encode_batch([t for t in texts if len(t) <= limit]))
  return [
    next(short) if len(text) <= limit else long_texts.encode(text, tokenizer)
    for text in texts
  ]


def encode_in_order(
  batches: Iterable[Batch], tokenizer: tokenizer_lib.Tokenizer, workers: int
) -> Iterator[Encoded]:
  """Yields `encode` of each batch, in order.

  Args:
    batches: read in this process, a few ahead of the workers.
    tokenizer: workers load it from its path.
    workers: number of processes. With 1, or with a single batch, this process
      does the work.

  Raises:
    ValueError: as `encode`, or a worker was killed.
  """
  batches = iter(batches)
  # With one batch there is nothing to share between workers.
  first = list(itertools.islice(batches, 2 if workers > 1 else 0))
  batches = itertools.chain(first, batches)
  if len(first) < 2:
    yield from (encode(batch, tokenizer) for batch in batches)
    return
  others = set(multiprocessing.active_children())
  # Spawned, since a fork after JAX has started its threads can deadlock.
  with concurrent.futures.ProcessPoolExecutor(
    workers, multiprocessing.get_context("spawn"), initializer=_start_worker
  ) as pool:
    pending: deque[concurrent.futures.Future[Encoded]] = deque()
    try:
      for batch in batches:
        pending.append(pool.submit(_encode, batch, tokenizer.path))
        if len(pending) > 3 * workers:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
      raise ValueError(
        f"All {workers} workers must run to the end, got one killed, perhaps "
        "for lack of memory. Use fewer workers; the same command resumes."
      ) from error
    finally:
      if pending:
        for worker in set(multiprocessing.active_children()) - others:
          worker.terminate()


def _start_worker() -> None:
  # At Ctrl-C a worker exits silently; the parent process reports it.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  # One worker uses one core; tokenizers would start a thread for each core.
  os.environ["TOKENIZERS_PARALLELISM"] = "false"
  # A killed parent leaves its workers running: they hold both queue ends.
  child.end_with_parent()


def _encode(batch: Batch, tokenizer_path: str) -> Encoded:
  return encode(batch, _loaded(tokenizer_path))


# A worker serves one call of `encode_in_order`, so the cache holds one entry.
_loaded = functools.cache(tokenizer_lib.load)
