"""Training documents that hide needles in text and ask for some of them.

A document is text with needles between its sentences, questions with their
answers within the text and at its end, and the end-of-text id. A few percent of
such documents teach a small model the task that `niah` tests. Each has new
keys, values and places, so that only the context has the answers.
"""

from collections.abc import Iterable, Iterator
import dataclasses
from typing import Self

import numpy as np

from drope_jax.evals import needles as needles_lib


@dataclasses.dataclass(frozen=True)
class NeedleDocuments:
  """What a needle document holds; ranges are inclusive, and drawn uniformly.

  A document asks for no key twice, so that no answer can be copied from an
  earlier one. Keep `max_questions * max_queries` well below `min_keys`, so that
  the last questions cannot be answered by exclusion.

  Attributes:
    needles: what needles say.
    min_keys, max_keys: keys in a document.
    min_values, max_values: values of each key, as many for all keys of one
      document.
    min_questions, max_questions: questions, at most as many as keys allow.
    min_queries, max_queries: keys that one question lists.
    midway: chance that a question stands within the text, anywhere after its
      needles, and not at its end.
    restatements: needles that are repeated at the end, drawn independently.
      They teach a small model to bind a key to its value.
  """

  needles: needles_lib.Needles = dataclasses.field(
    default_factory=needles_lib.Needles
  )
  min_keys: int = 2
  max_keys: int = 6
  min_values: int = 1
  max_values: int = 1
  min_questions: int = 1
  max_questions: int = 3
  min_queries: int = 1
  max_queries: int = 1
  midway: float = 0.3
  restatements: int = 0

  def __post_init__(self):
    for name in ("keys", "values", "questions", "queries"):
      low, high = self._range(name)
      if not 1 <= low <= high:
        raise ValueError(
          f"NeedleDocuments needs 1 <= min_{name} <= max_{name}, got {low} and "
          f"{high}. Change one of them."
        )
    if not 0 <= self.midway <= 1:
      raise ValueError(
        f"NeedleDocuments.midway is a chance, got {self.midway}. Give a number "
        "from 0 to 1."
      )
    if self.restatements < 0:
      raise ValueError(
        "NeedleDocuments.restatements is a count, got "
        f"{self.restatements}. Give 0 or more."
      )

  def _range(self, name: str) -> tuple[int, int]:
    return getattr(self, f"min_{name}"), getattr(self, f"max_{name}")

  def _draw(self, rng: np.random.Generator, name: str) -> int:
    low, high = self._range(name)
    return int(rng.integers(low, high + 1))


@dataclasses.dataclass(frozen=True)
class Haystack:
  """Text encoded once, to be cut into many documents.

  Attributes:
    ids: every sentence's ids end to end, int32.
    starts: where each sentence starts in `ids`, and len(ids) at the end.
  """

  ids: np.ndarray
  starts: np.ndarray

  @classmethod
  def encode(cls, encode: needles_lib.Encode, documents: Iterable[str]) -> Self:
    """Returns the haystack of the documents, in order.

    Raises:
      ValueError: there is no sentence in them.
    """
    pieces = [
      needles_lib.encode_continuation(encode, " " + sentence)
      for document in documents
      for sentence in needles_lib.sentences(document)
    ]
    if not pieces:
      raise ValueError(
        "A haystack needs text, got documents without a sentence. Pass others."
      )
    starts = np.cumsum([0] + [len(piece) for piece in pieces])
    return cls(np.concatenate(pieces).astype(np.int32), starts)

  def draw(
    self, rng: np.random.Generator, tokens: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns `tokens` ids that end with a sentence, and its inner borders.

    The borders are offsets into the ids at which a sentence starts, including 0
    and `tokens`. The first sentence is cut to fit. A haystack that is too short
    is repeated.
    """
    ids, starts = self.ids, self.starts
    if len(ids) < tokens:
      times = -(-tokens // len(ids))
      starts = np.append(
        (np.arange(times)[:, None] * len(ids) + starts[:-1]).ravel(),
        times * len(ids),
      )
      ids = np.tile(ids, times)
    end = starts[rng.integers(np.searchsorted(starts, tokens), len(starts))]
    first = np.searchsorted(starts, end - tokens, side="right")
    last = np.searchsorted(starts, end, side="right")
    borders = np.append(0, starts[first:last] - (end - tokens))
    return ids[end - tokens : end], borders


def training_document(
  config: NeedleDocuments,
  encode: needles_lib.Encode,
  haystack: Haystack,
  tokens: int,
  rng: np.random.Generator,
  eos_id: int,
) -> list[int]:
  """Returns a document of exactly `tokens` ids, the last of them `eos_id`.

  Depths are uniform. The text is cut at its front, never a needle.

  Raises:
    ValueError: the needles and questions drawn do not fit in `tokens`.
  """
  inserts = _inserts(config, rng)
  pieces = [
    (depth, needles_lib.encode_continuation(encode, text))
    for depth, text in inserts
  ]
  budget = tokens - 1 - sum(len(ids) for _, ids in pieces)
  if budget < 0:
    raise ValueError(
      f"A document of {tokens} tokens must hold its needles and questions, got "
      f"{tokens - budget} tokens of them. Lower NeedleDocuments.max_keys, "
      "max_questions or restatements, or ask for longer documents."
    )
  text, borders = haystack.draw(rng, budget)
  document, done = [], 0
  for depth, ids in pieces:
    # Snapping to the nearest border keeps the order of depths.
    after = np.searchsorted(borders, depth * budget)
    low, high = (
      borders[max(after - 1, 0)],
      borders[min(after, len(borders) - 1)],
    )
    place = low if depth * budget - low < high - depth * budget else high
    document.extend(text[done:place].tolist())
    document.extend(ids)
    done = place
  document.extend(text[done:].tolist())
  return document + [eos_id]


def training_documents(
  config: NeedleDocuments,
  encode: needles_lib.Encode,
  documents: Iterable[str],
  tokens: int,
  count: int,
  seed: int,
  eos_id: int,
) -> Iterator[list[int]]:
  """Yields `count` documents of `tokens` ids; the i-th depends on (seed, i).

  Args:
    documents: training text; never what `niah` is tested on.
    seed: differs from the evals' only by convention (see `niah.samples`).
  """
  haystack = Haystack.encode(encode, documents)
  for index in range(count):
    rng = np.random.default_rng((seed, index))
    yield training_document(config, encode, haystack, tokens, rng, eos_id)


def _inserts(
  config: NeedleDocuments, rng: np.random.Generator
) -> list[tuple[float, str]]:
  """Returns (depth, text) of needles and questions, in the order of reading."""
  num_values = config._draw(rng, "values")
  pairs = config.needles.draw(rng, config._draw(rng, "keys"), num_values)
  depths = dict(zip(pairs, rng.random((len(pairs), num_values)), strict=True))
  inserts = [
    (depth, " " + config.needles.needle(key, value))
    for key, values in pairs.items()
    for depth, value in zip(np.sort(depths[key]), values, strict=True)
  ]
  stated = list(inserts)
  for _ in range(config.restatements):
    inserts.append((1.0, stated[rng.integers(len(stated))][1]))
  unasked = list(pairs)  # In no order of depth.
  for _ in range(config._draw(rng, "questions")):
    if not unasked:
      break
    num_queries = min(config._draw(rng, "queries"), len(unasked))
    queries, unasked = unasked[:num_queries], unasked[num_queries:]
    _, ask = config.needles.around(queries, num_values)
    answer = ", ".join(value for key in queries for value in pairs[key])
    seen = max(depths[key].max() for key in queries)
    depth = rng.uniform(seen, 1) if rng.random() < config.midway else 1.0
    inserts.append((depth, f"{ask} {answer}."))
  return sorted(inserts, key=lambda insert: insert[0])
