"""RULER's needles in a haystack: niah_single, multikey, multivalue, multiquery.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/niah.py.
"""

from collections.abc import Sequence
import dataclasses
import functools
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
_DRAWS = {
  "words": words.Vocabulary.pair,
  "numbers": lambda vocabulary, rng: words.number(rng),
  "uuids": lambda vocabulary, rng: words.random_uuid(rng),
}


@dataclasses.dataclass(frozen=True)
class Needles(task.Kind):
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
    essay = re.sub(r"\s+", " ", " ".join(documents)).strip().split(" ")

    def draw(rng: np.random.Generator, num_keys: int) -> list[tuple[str, str]]:
      """Returns pairs of a key and a value, all values of a key in a row."""
      count = num_keys * self.num_values
      draw_key, draw_value = (
        functools.partial(_DRAWS[kind], vocabulary, rng)
        for kind in (self.keys, self.values)
      )
      keys = words.distinct(draw_key, num_keys)
      values = words.distinct(draw_value, count)
      repeated = np.repeat(keys, self.num_values).tolist()
      return list(zip(repeated, values, strict=True))

    def draft(size: int, rng: np.random.Generator, index: int) -> Draft:
      pairs = draw(rng, self.num_keys)
      hidden = [pairs[i] for i in rng.permutation(len(pairs))]
      others = []
      if self.haystack == "essay":
        text = " ".join(_cycled(essay, size))
        depths = np.sort(_sample(rng, DEPTHS, len(hidden)))
        context = in_text(
          needles_lib.sentences(text), depths.tolist(), self._needles(hidden)
        )
      else:
        lines = [NOISE] * size
        if self.haystack == "needles":
          others = draw(rng, size)
          lines = self._needles(others)
        # RULER puts the first needle into the last of the places.
        places = np.sort(_sample(rng, size, len(hidden)))[::-1]
        depths = 100 * places // size
        context = in_lines(lines, places.tolist(), self._needles(hidden))
      keys = list(dict.fromkeys(key for key, _ in pairs))
      queries = [keys[i] for i in _sample(rng, len(keys), self.num_queries)]
      answers = [v for query in queries for key, v in pairs if key == query]
      values = [value for _, value in hidden]
      return Draft(
        prompt=self.prompt(context, queries),
        answers=tuple(answers),
        others=tuple(v for _, v in [*pairs, *others] if v not in answers),
        queries=tuple(queries),
        depth=int(depths[values.index(answers[0])]),
      )

    return draft

  def step(self, length: int, room: int) -> int:
    """See `task.Kind`."""
    if self.haystack == "essay":
      return _ESSAY_STEP
    return _SHORT_LINE_STEP if length < _SHORT_TOKENS else _LINE_STEP

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

  def _needles(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
    needle = self.wording.needle
    return [needle.format(kind=self._kind, key=k, value=v) for k, v in pairs]


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
