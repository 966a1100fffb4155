"""Batches as a pure function of (configuration, seed, step), with grain."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import math

import grain
import numpy as np

from drope_jax.data import packing, paths
from drope_jax.data import store as store_lib

Row = Callable[[], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What to train on.

  Attributes:
    stores: paths of token stores, absolute or relative to `base_dir`.
    weights: the share of sequences from each store, in any unit; exact within
      1% of the smallest. Empty: the stores form one, and an epoch reads each
      sequence once.
    document_mask: attention and loss stay within a document.
  """

  stores: tuple[str, ...]
  weights: tuple[float, ...] = ()
  document_mask: bool = False

  def __post_init__(self):
    if not self.stores:
      raise ValueError(
        "DataConfig.stores needs at least one token store, got none. Make "
        "one with `drope tokenize`."
      )
    if self.weights and len(self.weights) != len(self.stores):
      raise ValueError(
        "DataConfig.weights needs one weight for each of the "
        f"{len(self.stores)} stores, or none, got {len(self.weights)}. Add or "
        "remove weights."
      )
    if not all(math.isfinite(w) and w > 0 for w in self.weights):
      raise ValueError(
        f"DataConfig.weights need to be positive, got {self.weights}. Leave "
        "out a store that should not be used."
      )


def batches(
  config: DataConfig,
  *,
  batch_size: int,
  context_tokens: int,
  seed: int,
  start_sequence: int = 0,
  part: int = 0,
  parts: int = 1,
  workers: int = 0,
  prefetch_batches: int = 4,
  base_dir: str | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns the endless batches from `start_sequence`; seeking costs nothing.

  Sequence i of the stream depends only on `config`, `context_tokens`, `seed`
  and i. Batch s holds the `batch_size` sequences from `start_sequence + s *
  batch_size`. Every epoch is a new permutation of the sequences, computed
  index by index and never held in memory.

  Args:
    config: the stores and their weights.
    batch_size: B, over all parts.
    context_tokens: S.
    seed: of the order, not negative.
    start_sequence: how many sequences of the stream to skip.
    part: which part of each batch to yield: rows from part * B / parts.
    parts: how many parts a batch has; must divide B.
    workers: threads that prefetch, one batch each; 0 reads when asked.
    prefetch_batches: how many batches to prefetch.
    base_dir: where relative store paths start.

  Returns:
    dicts of inputs_BS, targets_BS, segments_BS (int32), weights_BS (float32),
    where B is the rows of this part.

  Raises:
    FileNotFoundError, ValueError: a store is missing, damaged, shorter than one
      sequence, or of another tokenizer than the first; or `parts` does not
      divide `batch_size`.
  """
  if batch_size % parts:
    raise ValueError(
      f"Every process needs the same number of rows, got a batch of "
      f"{batch_size} for {parts} parts. Make batch_size a multiple of {parts}."
    )
  stores = open_stores(config, base_dir)
  sequences = _order(config, stores, context_tokens, seed)[start_sequence:]
  # Without drop_remainder, grain's length for an endless dataset overflows.
  rows = sequences.batch(
    batch_size // parts, drop_remainder=True, batch_fn=_stack
  )
  # Blocks of rows are ordered by (step, part): take every `parts`-th one.
  rows = rows[part::parts]
  options = grain.ReadOptions(
    num_threads=workers, prefetch_buffer_size=prefetch_batches
  )
  return _read(rows.to_iter_dataset(options))


def _read(dataset: grain.IterDataset) -> Iterator[dict[str, np.ndarray]]:
  batches = iter(dataset)
  try:
    yield from batches
  finally:  # Cancels the prefetching that has not begun.
    batches.close()


def open_stores(
  config: DataConfig, base_dir: str | None = None
) -> tuple[store_lib.Store, ...]:
  """Returns the stores of `config`, which all share one tokenizer.

  Raises:
    FileNotFoundError, ValueError: as `Store.open`, or tokenizers differ.
  """
  stores = tuple(
    store_lib.Store.open(str(paths.resolve(path, base_dir)))
    for path in config.stores
  )
  for store in stores[1:]:
    if store.tokenizer_fingerprint != stores[0].tokenizer_fingerprint:
      raise ValueError(
        "Stores that are mixed must have the same tokenizer, got "
        f"{stores[0].tokenizer_fingerprint[:12]} in {stores[0].path} and "
        f"{store.tokenizer_fingerprint[:12]} in {store.path}. Tokenize both "
        "with the same file."
      )
  return stores


def _order(
  config: DataConfig,
  stores: Sequence[store_lib.Store],
  context_tokens: int,
  seed: int,
) -> grain.MapDataset:
  parts = [
    grain.MapDataset.source(
      _Chunks(store, context_tokens, config.document_mask)
    )
    for store in stores
  ]
  # grain adds the epoch to the seed, so the seeds must not be consecutive.
  seeds = np.random.SeedSequence(seed).generate_state(len(parts))
  if config.weights:
    mixed = [
      part.shuffle(int(s)).repeat()
      for part, s in zip(parts, seeds, strict=True)
    ]
    return grain.MapDataset.mix(mixed, config.weights)
  return grain.MapDataset.concatenate(parts).shuffle(int(seeds[0])).repeat()


class _Chunks:
  """A store's sequences as a grain data source.

  An item is a read in progress, so that the rows of a batch are read at the
  same time.
  """

  def __init__(
    self, store: store_lib.Store, context_tokens: int, document_mask: bool
  ):
    self._length = packing.num_chunks(store.num_tokens, context_tokens)
    if not self._length:
      raise ValueError(
        f"A sequence needs {context_tokens + 1} tokens, got a store of only "
        f"{store.num_tokens}: {store.path}. Lower context_tokens, or tokenize "
        "more text."
      )
    self._begin = functools.partial(
      packing.begin_chunk,
      store,
      context_tokens=context_tokens,
      document_mask=document_mask,
    )

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Row:
    return self._begin(index)


def _stack(begun: Sequence[Row]) -> dict[str, np.ndarray]:
  rows = [wait() for wait in begun]
  return {
    f"{name.removesuffix('S')}BS": np.stack([row[name] for row in rows])
    for name in rows[0]
  }
