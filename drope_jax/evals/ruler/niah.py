"""RULER's needles in a haystack: niah_single, multikey, multivalue, multiquery.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/niah.py.
"""

from collections.abc import Sequence
import dataclasses
import re

import numpy as np

from drope_jax.evals import needles as needles_lib
from drope_jax.evals.niah import DEPTHS
from drope_jax.evals.retrieval import SENTENCE_END
from drope_jax.evals.ruler import task, words
from drope_jax.evals.ruler.task import Draft
from drope_jax.evals.task import Order

NOISE = (
  "The grass is green. The sky is blue. The sun is yellow. Here we go. There "
  "and back again."
)
_ESSAY_STEP, _LINE_STEP, _SHORT_LINE_STEP = 500, 25, 5
_SHORT_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Needles:
  """Keys with values, hidden in a haystack, and asked for by key.

  Attributes:
    haystack: "essay", running text; "noise", one line again and again; or
      "needles", other keys and values.
    num_keys: hidden.
    num_values: of each key.
    num_queries: keys asked for, different ones.
    keys, values: "words" (adjective-noun), "numbers" (seven digits) or "uuids".
    essays: text of the essay; None: the documents of the suite.
    wording: of needles and question.
  """

  haystack: str
  num_keys: int = 1
  num_values: int = 1
  num_queries: int = 1
  keys: str = "words"
  values: str = "numbers"
  essays: str | None = None
  wording: needles_lib.Wording = needles_lib.RULER

  new_tokens = 128
  ends = SENTENCE_END
  alternatives = False

  def drafter(self, order: Order, length: int) -> task.Drafter:
    """See `task.Kind`; a size is words of an essay, or lines."""
    vocabulary = words.Vocabulary.load()
    documents = order.documents if self.essays is None else [self.essays]
    text = re.sub(r"\s+", " ", " ".join(documents)).strip().split(" ")

    def draw(kind: str, rng: np.random.Generator) -> str:
      draws = {
        "words": vocabulary.pair,
        "numbers": words.number,
        "uuids": words.random_uuid,
      }
      return draws[kind](rng)

    def draft(size: int, rng: np.random.Generator, index: int) -> Draft:
      keys = words.distinct(lambda: draw(self.keys, rng), self.num_keys)
      count = self.num_keys * self.num_values
      values = words.distinct(lambda: draw(self.values, rng), count)
      repeated = [key for key in keys for _ in range(self.num_values)]
      pairs = list(zip(repeated, values, strict=True))
      hidden = [pairs[i] for i in rng.permutation(count)]
      needles = [self._needle(*pair) for pair in hidden]
      queries = [keys[i] for i in _sample(rng, self.num_keys, self.num_queries)]
      answers = [v for query in queries for k, v in pairs if k == query]
      others = [v for k, v in pairs if k not in queries]
      if self.haystack == "essay":
        depths = np.sort(rng.choice(DEPTHS, count, replace=False))
        sentences = needles_lib.sentences(" ".join(_cycled(text, size)))
        context = in_text(sentences, depths.tolist(), needles)
        places = depths
      else:
        lines = [NOISE] * size
        if self.haystack == "needles":
          more = [
            (draw(self.keys, rng), draw(self.values, rng)) for _ in range(size)
          ]
          lines = [self._needle(*pair) for pair in more]
          others += [value for _, value in more]
        # RULER puts the first needle into the last of the places.
        at = np.sort(_sample(rng, size, count))[::-1]
        context = in_lines(lines, at.tolist(), needles)
        places = 100 * at // size
      first = [value for _, value in hidden].index(answers[0])
      return Draft(
        self.prompt(context, queries),
        tuple(answers),
        tuple(others),
        tuple(queries),
        int(places[first]),
      )

    return draft

  def step(self, length: int, room: int) -> int:
    """See `task.Kind`."""
    if self.haystack == "essay":
      return _ESSAY_STEP
    return _SHORT_LINE_STEP if length < _SHORT_TOKENS else _LINE_STEP

  def size(
    self, tokens_of: task.TokensOf, length: int, room: int, step: int
  ) -> int:
    """See `task.Kind`."""
    return task.search(tokens_of, length, room, step)

  def prompt(self, context: str, queries: Sequence[str]) -> str:
    """Returns the question about a context, up to where the answer begins."""
    several = len(queries) * self.num_values > 1
    before, ask = needles_lib.around(
      self.wording, self._kind, queries, several=several
    )
    return before + context + ask

  @property
  def _kind(self) -> str:
    return self.values.removesuffix("s")

  def _needle(self, key: str, value: str) -> str:
    return self.wording.needle.format(kind=self._kind, key=key, value=value)


def in_text(
  sentences: Sequence[str], depths: Sequence[int], needles: Sequence[str]
) -> str:
  """Returns sentences with a needle at each depth.

  Args:
    sentences: of the haystack.
    depths: in percent of the sentences, rising.
    needles: in the order of the depths.
  """
  ends = [int(len(sentences) * (depth / 100)) for depth in depths]
  parts, start = [], 0
  for end, needle in zip(ends, needles, strict=True):
    # No sentence between two needles leaves two spaces, as in RULER.
    parts += [" ".join(sentences[start:end]), needle]
    start = end
  return " ".join([*parts, " ".join(sentences[start:])])


def in_lines(
  lines: Sequence[str], places: Sequence[int], needles: Sequence[str]
) -> str:
  """Returns lines with each needle before the line of its place.

  Args:
    lines: of the haystack.
    places: falling, so that an earlier one stays true.
    needles: in the order of the places.
  """
  found = list(lines)
  for place, needle in zip(places, needles, strict=True):
    found.insert(place, needle)
  return "\n".join(found)


def _sample(rng, population, count):
  return rng.choice(population, count, replace=False)


def _cycled(text: Sequence[str], size: int) -> list[str]:
  """Returns the first `size` words, from the start again where they end."""
  return (list(text) * -(-size // len(text)))[:size]
