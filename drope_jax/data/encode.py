"""Documents to token ids, in parallel processes and in order.

Imports no more than a worker needs, since every worker does it anew.
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
import threading

import numpy as np
from numpy.typing import ArrayLike

from drope_jax.data import long_texts, metadata
from drope_jax.data import tokenizer as tokenizer_lib

Document = str | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Batch:
  """Documents of one source, and the place after the last of them.

  Attributes:
    documents: texts, or ids as they are.
    name: the source's.
    next_source: where the stream goes on: the index of a source, ...
    next_document: ... and how many of its documents came before.
    skipped: how many were left out among these, by kind.
  """

  documents: list[Document]
  name: str
  next_source: int
  next_document: int
  skipped: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A batch's documents as ids, each ended by EOS; empty ones left out.

  Attributes:
    tokens: in the store's dtype.
    lengths: of the documents, int64, EOS included.
    next_source: as in the `Batch`.
    next_document: as in the `Batch`.
    skipped: as in the `Batch`, with the "empty" ones.
  """

  tokens: np.ndarray
  lengths: np.ndarray
  next_source: int
  next_document: int
  skipped: Counter[str]


def encode(batch: Batch, tokenizer: tokenizer_lib.Tokenizer) -> Encoded:
  """Returns the ids of a batch.

  Raises:
    ValueError: ids that the tokenizer does not have.
  """
  documents = batch.documents
  if documents and isinstance(documents[0], str):
    documents = _encode_texts(documents, tokenizer)
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
      f"Ids from 0 up to the tokenizer's {tokenizer.vocab_size} are needed, "
      f"got {tokens[wrong.argmax()]} from {batch.name}. Encode with that "
      "tokenizer."
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
    tokenizer: which workers load from its path.
    workers: processes; 1 works in this one, as a single batch does.

  Raises:
    ValueError: as `encode`, or a worker was killed.
  """
  batches = iter(batches)
  # Two tell that there is work to share; one process waits for none ahead.
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
    pending = deque()
    try:
      for batch in batches:
        pending.append(pool.submit(_encode, batch, tokenizer.path))
        if len(pending) > 3 * workers:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
      raise ValueError(
        f"{workers} workers must live until the end, got one killed, perhaps "
        "for want of memory. Use fewer workers; the same command resumes."
      ) from error
    finally:
      if pending:
        for child in set(multiprocessing.active_children()) - others:
          child.terminate()


def _start_worker() -> None:
  # Ctrl-C ends a worker without a word, for the first process to explain.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  # A worker is one core; tokenizers would start a thread for each.
  os.environ["TOKENIZERS_PARALLELISM"] = "false"
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  # A killed parent ends no worker by itself: all hold both ends of its queues.
  multiprocessing.parent_process().join()
  os._exit(1)


def _encode(batch: Batch, tokenizer_path: str) -> Encoded:
  return encode(batch, _loaded(tokenizer_path))


# A worker lives for one call of `encode_in_order`.
_loaded = functools.cache(tokenizer_lib.load)
