"""Needles: facts hidden in a text, and the questions that ask for them.

Training documents (`needle_documents`) and the retrieval eval (`niah`) share
this code, so that they have the same form. Everything is text; a tokenizer is
only a function `encode(text) -> ids`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import importlib.resources
import re
from typing import Literal

import numpy as np

Encode = Callable[[str], list[int]]

_KINDS = {"words": "word", "numbers": "number"}
# A stop, perhaps a closing quote, and no title or initial before it.
_SENTENCE_END = re.compile(
  r"(?:(?<=[.!?])|(?<=[.!?][\"')\]”’]))"
  r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\b[A-Z]\.) "
)
# The tokens of a word do not depend on what follows the next space; those of a
# full stop may (some byte-pair vocabularies merge it with a newline).
_ANCHOR = "a"


@dataclasses.dataclass(frozen=True)
class Phrasing:
  """The text around a haystack: `before + haystack + ask`, then the answer.

  Attributes:
    before: with a field {kind}, "number" or "word".
    ask: the question and the answer's prefix, with fields {kind} and {query}.
      It ends without a space: the answer begins with one.
  """

  before: str
  ask: str


@dataclasses.dataclass(frozen=True)
class Wording:
  """How needles and questions read.

  Attributes:
    needle: one fact, with fields {kind}, {key} and {value}.
    one: phrasing where one value answers.
    many: phrasing where several values answer.
  """

  needle: str
  one: Phrasing
  many: Phrasing


# NVIDIA/RULER c3f5e3b, scripts/data/synthetic/{niah,constants}.py. The needle
# stays plural; only a question of one query and one value is singular.
RULER = Wording(
  needle="One of the special magic {kind}s for {key} is: {value}.",
  one=Phrasing(
    before="A special magic {kind} is hidden within the following text. Make "
    "sure to memorize it. I will quiz you about the {kind} afterwards.\n",
    ask="\nWhat is the special magic {kind} for {query} mentioned in the "
    "provided text? The special magic {kind} for {query} mentioned in the "
    "provided text is",
  ),
  many=Phrasing(
    before="Some special magic {kind}s are hidden within the following text. "
    "Make sure to memorize it. I will quiz you about the {kind}s afterwards.\n",
    ask="\nWhat are all the special magic {kind}s for {query} mentioned in the "
    "provided text? The special magic {kind}s for {query} mentioned in the "
    "provided text are",
  ),
)

# RULER's, shortened for vocabularies of a few hundred to a few thousand pieces
# and models of a few million parameters. The value follows its key directly, so
# one lookup finds it: a model of 1.5M parameters learned this in 200 steps.
# "{key} is {value}" takes two lookups, and it did not learn them in 400 steps.
SHORT = Wording(
  needle="Magic {kind}: {key} {value}.",
  one=Phrasing(
    before="",
    ask=" Which magic {kind} goes with {query}? Magic {kind}: {query}",
  ),
  many=Phrasing(
    before="",
    ask=" Which magic {kind}s go with {query}? Magic {kind}s: {query}",
  ),
)


WORDINGS = {"ruler": RULER, "short": SHORT}
"""By the names that configs have for them."""


@dataclasses.dataclass(frozen=True)
class Needles:
  """What needles say.

  Attributes:
    words: keys, and values of the kind "words"; None: the packaged list of
      common nouns. Training and test share the list, but not the pairs.
    value_kind: "words" or "numbers".
    digits: the length of a value that is a number.
    wording: how they read, in your words, or by a name in `WORDINGS`.
  """

  words: tuple[str, ...] | None = None
  value_kind: str = "words"
  digits: int = 4
  wording: Wording | Literal["ruler", "short"] = SHORT

  def __post_init__(self):
    if self.value_kind not in _KINDS:
      raise ValueError(
        f"Needles.value_kind must be one of {sorted(_KINDS)}, got "
        f"{self.value_kind!r}. Name one of them."
      )
    if not 1 <= self.digits <= 15:
      raise ValueError(
        f"Needles.digits must be 1 to 15, got {self.digits}. Change it."
      )
    if isinstance(self.wording, str):
      if self.wording not in WORDINGS:
        raise ValueError(
          f"Needles.wording must be one of {', '.join(WORDINGS)}, got "
          f"{self.wording!r}. Name one of them."
        )
      object.__setattr__(self, "wording", WORDINGS[self.wording])
    if self.words is None:
      object.__setattr__(self, "words", packaged_words())
    if len(set(self.words)) < len(self.words):
      raise ValueError(
        "Needles.words must be distinct, got "
        f"{len(self.words) - len(set(self.words))} repeated. Remove them."
      )

  @property
  def kind(self) -> str:
    """The singular noun of a value: "word" or "number"."""
    return _KINDS[self.value_kind]

  def draw(
    self, rng: np.random.Generator, num_keys: int, num_values: int
  ) -> dict[str, tuple[str, ...]]:
    """Returns distinct keys with distinct values, drawn at random.

    Raises:
      ValueError: there are too few words, or numbers of so few digits.
    """
    words = self.words
    assert words is not None  # `__post_init__` has filled it in.
    num_all = num_keys * num_values
    num_words = num_keys + num_all * (self.value_kind == "words")
    low, high = 10 ** (self.digits - 1), 10**self.digits
    numbers_asked = num_all * (self.value_kind == "numbers")
    if num_words > len(words) or numbers_asked > high - low:
      raise ValueError(
        f"{num_keys} keys of {num_values} {self.value_kind} need {num_words} "
        f"distinct words and {num_all} values, got {len(words)} words and "
        f"{high - low} numbers. Lengthen Needles.words, or ask for fewer keys."
      )
    drawn = rng.choice(len(words), num_words, replace=False)
    chosen = [words[i] for i in drawn]
    keys, values = chosen[:num_keys], chosen[num_keys:]
    if self.value_kind == "numbers":
      numbers = rng.choice(high - low, num_all, replace=False) + low
      values = [str(number) for number in numbers]
    return {
      key: tuple(values[i * num_values : (i + 1) * num_values])
      for i, key in enumerate(keys)
    }

  def needle(self, key: str, value: str) -> str:
    """Returns the sentence that hides `value` under `key`."""
    assert isinstance(self.wording, Wording)
    return self.wording.needle.format(kind=self.kind, key=key, value=value)

  def around(self, queries: Sequence[str], num_values: int) -> tuple[str, str]:
    """Returns the texts before and after the haystack, the prefix included.

    Args:
      queries: the keys asked for, in order; a repeated one is listed again.
      num_values: values of each key; one of one key is asked in the singular.
    """
    assert isinstance(self.wording, Wording)
    several = len(queries) * num_values > 1
    return around(self.wording, self.kind, queries, several=several)


def around(
  wording: Wording, kind: str, queries: Sequence[str], *, several: bool
) -> tuple[str, str]:
  """Returns the texts before and after a haystack, the prefix included.

  Args:
    wording: of the question.
    kind: the singular noun of a value, such as "number".
    queries: the keys asked for, in order.
    several: whether several values answer.
  """
  phrasing = wording.many if several else wording.one
  fields = {"kind": kind, "query": listing(queries)}
  return phrasing.before.format(**fields), phrasing.ask.format(**fields)


def listing(items: Sequence[str]) -> str:
  """Returns "a", "a, and b" or "a, b, and c": RULER's list of queries."""
  *most, last = items
  return f"{', '.join(most)}, and {last}" if most else last


def packaged_words() -> tuple[str, ...]:
  """Returns common nouns; to the packaged tokenizer each is one token.

  The space before it belongs to that token. A single token separates retrieval
  from spelling.
  """
  file = importlib.resources.files("drope_jax") / "assets" / "words.txt"
  return tuple(file.read_text(encoding="utf-8").split())


def sentences(text: str) -> list[str]:
  """Returns the text's sentences, with every run of whitespace one space."""
  return [s for s in _SENTENCE_END.split(" ".join(text.split())) if s]


def encode_continuation(encode: Encode, text: str) -> list[int]:
  """Returns the ids of `text` where other text comes before it.

  A tokenizer may treat the beginning of a text in another way than its middle
  (sentencepiece puts a space before it). So `text` is encoded after a word,
  whose ids are then removed. `text` should begin with a space or a newline.

  Raises:
    ValueError: the tokenizer merges across that border.
  """
  anchor = encode(_ANCHOR)
  ids = encode(_ANCHOR + text)
  if ids[: len(anchor)] != anchor:
    raise ValueError(
      "Needles need a tokenizer that splits at spaces, got one that changes "
      f"the ids of {_ANCHOR!r} before {text[:20]!r}. Use another tokenizer."
    )
  return ids[len(anchor) :]
