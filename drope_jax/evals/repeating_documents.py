"""Training documents that repeat their own text, which teach a model to copy.

A document is running text in which some spans are replaced by a copy of an
earlier span, and the end-of-text id. Text of which 10 to 20% is repeated gives
a small model something to recall from its context; `recall` and
`second_reading` test it on text without planted copies.
"""

from collections.abc import Iterable, Iterator
import dataclasses

import numpy as np

from drope_jax.evals import needles as needles_lib
from drope_jax.evals.needle_documents import Haystack


@dataclasses.dataclass(frozen=True)
class RepeatingDocuments:
  """How a document repeats itself.

  Attributes:
    share: chance that a span is a copy; so the share of a document's tokens
      that are copied, but for its beginning.
    min_span, max_span: tokens of a span, inclusive, drawn uniformly.
  """

  share: float = 0.4
  min_span: int = 16
  max_span: int = 96

  def __post_init__(self):
    if not 0 < self.share < 1 or not 1 <= self.min_span <= self.max_span:
      raise ValueError(
        "RepeatingDocuments needs 0 < share < 1 and 1 <= min_span <= max_span, "
        f"got {self.share}, {self.min_span} and {self.max_span}. Change them."
      )


def training_document(
  config: RepeatingDocuments,
  text: np.ndarray,
  rng: np.random.Generator,
  eos_id: int,
) -> list[int]:
  """Returns a document as long as `text`, the last id of it `eos_id`.

  Args:
    config: how it repeats itself.
    text: ids, of which the first are used, in order.
    rng: of the spans.
    eos_id: the end.
  """
  document: list[int] = []
  read = 0
  while len(document) < len(text) - 1:
    span = int(rng.integers(config.min_span, config.max_span + 1))
    if len(document) >= span and rng.random() < config.share:
      start = int(rng.integers(len(document) - span + 1))
      document += document[start : start + span]
    else:
      document += text[read : read + span].tolist()
      read += span
  return [*document[: len(text) - 1], eos_id]


def training_documents(
  config: RepeatingDocuments,
  encode: needles_lib.Encode,
  documents: Iterable[str],
  tokens: int,
  count: int,
  seed: int,
  eos_id: int,
) -> Iterator[list[int]]:
  """Yields `count` documents of `tokens` ids; the i-th depends on (seed, i).

  Args:
    config: how they repeat themselves.
    encode: text to ids.
    documents: training text; never what is tested on.
    tokens: of each document.
    count: of documents.
    seed: of runs of text and of spans.
    eos_id: ends each document.
  """
  haystack = Haystack.encode(encode, documents)
  for index in range(count):
    rng = np.random.default_rng((seed, index))
    text, _ = haystack.draw(rng, tokens)
    yield training_document(config, text, rng, eos_id)
