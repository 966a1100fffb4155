"""Text as a list of words with sentence ends, to cut haystacks from."""

import bisect
from collections.abc import Callable, Iterable
import dataclasses
import itertools
from typing import Self

import numpy as np

from drope_jax.evals import needles

# A haystack may repeat its text. With very little text it says little, and a
# mistyped length would fill the memory.
_MAX_COPIES = 100


@dataclasses.dataclass(frozen=True)
class RunningText:
  """The words of all documents, repeated to be longer than any haystack.

  Attributes:
    words: without spaces.
    costs: tokens of all words before each word; the last is of all words.
    ends: index of the word after each sentence, ascending.
    period: words before they repeat.
  """

  words: list[str]
  costs: np.ndarray
  ends: np.ndarray
  period: int

  @classmethod
  def of(
    cls, encode: needles.Encode, documents: Iterable[str], tokens: int
  ) -> Self:
    """Returns the documents, repeated for runs of up to `tokens`.

    Raises:
      ValueError: there is no word in them, or so few that runs would repeat
        them too often.
    """
    split = [
      sentence.split()
      for document in documents
      for sentence in needles.sentences(document)
    ]
    words = [word for sentence in split for word in sentence]
    if not words:
      raise ValueError(
        "A haystack needs text, got documents without a word. Pass others."
      )
    price = {
      word: len(needles.encode_continuation(encode, " " + word))
      for word in set(words)
    }
    costs = np.array([price[word] for word in words])
    ends = np.cumsum([len(sentence) for sentence in split])
    total = int(costs.sum())
    if tokens > _MAX_COPIES * total:
      raise ValueError(
        f"A haystack of {tokens} tokens needs text of at least "
        f"{-(-tokens // _MAX_COPIES)}, to repeat it at most {_MAX_COPIES} "
        f"times, got documents of {total}. Pass more text, or ask for a "
        "shorter length."
      )
    # Haystacks end in the last copy and may go back into those before it.
    copies = 1 + -(-tokens // total)
    offsets = np.arange(copies)[:, None] * len(words)
    return cls(
      words=words * copies,
      costs=np.append(0, np.cumsum(np.tile(costs, copies))),
      ends=(offsets + ends).ravel(),
      period=len(words),
    )

  def draw_end(self, rng: np.random.Generator) -> int:
    """Returns the end of a sentence, with enough words before it."""
    last = np.searchsorted(self.ends, len(self.words) - self.period, "right")
    return int(self.ends[rng.integers(last, len(self.ends))])

  def sentences(self, start: int, stop: int) -> list[str]:
    """Returns words [start, stop), one text a sentence; the first may be cut.

    Args:
      stop: the end of a sentence.
    """
    low, high = np.searchsorted(self.ends, (start, stop), "right")
    bounds = [start, *self.ends[low:high]]
    return [" ".join(self.words[a:b]) for a, b in itertools.pairwise(bounds)]

  def fill(
    self,
    encode: needles.Encode,
    prompt: Callable[[list[str]], str],
    stop: int,
    room: int,
  ) -> str:
    """Returns the prompt with the most words of text that fits.

    Args:
      encode: text to ids.
      prompt: from the sentences of a text to the prompt that holds them.
      stop: where the text ends, the end of a sentence.
      room: tokens of the prompt, at most.

    Raises:
      TooLong: it does not fit with a single word.
    """

    def made(start: int) -> str:
      return prompt(self.sentences(start, stop))

    def fits(start: int) -> bool:
      return len(encode(made(start))) <= room

    # With most tokenizers the tokens of a word do not depend on its place, so
    # the first guess is right. Where it is too long, bisection finds the cut.
    spare = max(room - len(encode(made(stop))), 0)
    start = int(np.searchsorted(self.costs, self.costs[stop] - spare))
    if start < stop and not fits(start):
      start = bisect.bisect_left(range(stop), True, lo=start + 1, key=fits)
    if start == stop:
      raise TooLong(len(encode(made(stop - 1))))
    return made(start)


class TooLong(Exception):
  """A prompt with one word of text is too long.

  Attributes:
    tokens: of the prompt.
  """

  def __init__(self, tokens: int):
    super().__init__(tokens)
    self.tokens = tokens
