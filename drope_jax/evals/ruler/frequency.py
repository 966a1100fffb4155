"""RULER's most frequent words: cwe, of English words, and fwe, of coded ones.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/
common_words_extraction.py and freq_words_extraction.py.
"""

from collections.abc import Sequence
import dataclasses
import string

import numpy as np
from scipy import special

from drope_jax.evals.retrieval import LINE_END
from drope_jax.evals.ruler import task, words
from drope_jax.evals.ruler.task import Draft
from drope_jax.evals.task import Order

COMMON = (
  "Below is a numbered list of words. In these words, some appear more often "
  "than others. Memorize the ones that appear most often.\n{context}\n"
  "Question: What are the 10 most common words in the above list? Answer: The "
  "top 10 words that appear most often in the list are:"
)
CODED = (
  "Read the following coded text and track the frequency of each coded word. "
  "Find the three most frequently appeared coded words. {context}\nQuestion: "
  "Do not provide any explanation. Please ignore the dots '....'. What are the "
  "three most frequently appeared words in the above coded text? Answer: "
  "According to the coded text above, the three most frequently appeared words "
  "are:"
)
_STEP, _SHORT_TOKENS, _ESTIMATED_WORDS = 10, 4096, 4096
_ASKED, _TOKENS_A_CODED_WORD = 3, 50


@dataclasses.dataclass(frozen=True)
class Repeats:
  """How often common and other words stand in a list."""

  common: int
  other: int


@dataclasses.dataclass(frozen=True)
class CommonWords(task.Kind):
  """A numbered list of words, ten of which appear more often: cwe.

  A solved example of a shorter list stands before it.

  Attributes:
    common: words that appear more often.
    english_words: those of RULER's english_words.json, for lists that take more
      words than wonderwords has; None: there are no more.
  """

  common: int = 10
  english_words: tuple[str, ...] | None = None

  new_tokens = 120
  ends = LINE_END
  alternatives = False

  def drafter(self, order: Order, length: int) -> task.Drafter:
    """See `task.Kind`; a size is different words."""
    vocabulary = words.Vocabulary.load().all()
    is_short = length < _SHORT_TOKENS
    repeats = Repeats(6, 1) if is_short else Repeats(30, 3)
    example = (20, Repeats(3, 1)) if is_short else (40, Repeats(10, 3))

    def listed(size, repeats, rng):
      chosen = _choose(self._enough(vocabulary, size), size, rng)
      common = chosen[: self.common]
      repeated = common * repeats.common
      repeated += chosen[self.common :] * repeats.other
      return [repeated[i] for i in rng.permutation(len(repeated))], common

    def draft(size: int, rng: np.random.Generator, index: int) -> Draft:
      shown, answer = listed(*example, rng)
      asked, common = listed(size, repeats, rng)
      others = sorted({*asked} - {*common})
      return Draft(
        common_prompt(shown, answer, asked), tuple(common), tuple(others)
      )

    return draft

  def step(self, length: int, room: int) -> int:
    """See `task.Kind`."""
    return _STEP

  def size(
    self, tokens_of: task.TokensOf, length: int, room: int, step: int
  ) -> int:
    """See `task.Kind`."""
    tokens_a_word = tokens_of(_ESTIMATED_WORDS) / _ESTIMATED_WORDS
    estimate = 2 * int(length // tokens_a_word)
    return task.largest_fit(tokens_of, room, step, estimate)

  def _enough(self, vocabulary, size):
    if size <= len(vocabulary):
      return vocabulary
    if self.english_words is None:
      raise ValueError(
        f"cwe needs {size} different words for this length, got "
        f"{len(vocabulary)}. Set Ruler.english_words to RULER's "
        "scripts/data/synthetic/json/english_words.json, or test it at a "
        "shorter length."
      )
    return self.english_words


@dataclasses.dataclass(frozen=True)
class CodedWords(task.Kind):
  """Words of random letters, by Zipf's law; the three commonest: fwe.

  Attributes:
    alpha: exponent of the law.
    letters: of a word.
  """

  alpha: float = 2.0
  letters: int = 6

  new_tokens = 50
  ends = LINE_END
  alternatives = False

  def drafter(self, order: Order, length: int) -> task.Drafter:
    """See `task.Kind`; a size is the words that the law is scaled to."""
    vocabulary_size = (length - self.new_tokens) // _TOKENS_A_CODED_WORD
    if vocabulary_size <= _ASKED:
      least = self.new_tokens + (_ASKED + 1) * _TOKENS_A_CODED_WORD
      raise ValueError(
        f"fwe needs a length of at least {least} tokens for its coded words, "
        f"got {length}. Test it at a longer length."
      )

    def draft(size: int, rng: np.random.Generator, index: int) -> Draft:
      ranked = words.distinct(
        lambda: words.letters(rng, string.ascii_lowercase, self.letters),
        vocabulary_size,
      )
      rank = np.arange(1, vocabulary_size + 1)
      counts = size * rank**-self.alpha / special.zeta(self.alpha)
      # The commonest stands for noise.
      shown = np.repeat(["...", *ranked[1:]], counts.astype(int))
      prompt = coded_prompt(rng.permutation(shown).tolist())
      answers, others = ranked[1 : _ASKED + 1], ranked[_ASKED + 1 :]
      return Draft(prompt, tuple(answers), tuple(others))

    return draft

  def step(self, length: int, room: int) -> int:
    """See `task.Kind`."""
    return max(room // 32, 1)

  def size(
    self, tokens_of: task.TokensOf, length: int, room: int, step: int
  ) -> int:
    """See `task.Kind`: the last size before the text is too long."""
    size = room // self.letters
    while tokens_of(size) < room:
      size += step
    return size - step


def common_prompt(
  shown: Sequence[str], answer: Sequence[str], asked: Sequence[str]
) -> str:
  """Returns cwe's prompt.

  Args:
    shown: the words of the example, in their order.
    answer: to the example.
    asked: the words that the question is about, in their order.
  """
  example = f"{COMMON.format(context=_numbered(shown))} {_numbered(answer)}"
  return f"{example}\n{COMMON.format(context=_numbered(asked))}"


def coded_prompt(shown: Sequence[str]) -> str:
  """Returns fwe's prompt about coded words in their order."""
  return CODED.format(context=" ".join(shown))


def _numbered(shown: Sequence[str]) -> str:
  return " ".join(f"{i}. {word}" for i, word in enumerate(shown, 1))


def _choose(items, count, rng):
  return [items[i] for i in rng.choice(len(items), count, replace=False)]
