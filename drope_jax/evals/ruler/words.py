"""The random words, numbers and names of RULER's prompts."""

from collections.abc import Callable
import dataclasses
import importlib.resources
from typing import Self
import uuid

import numpy as np

_NUMBER_DIGITS = 7


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """English words: those of the package wonderwords, as RULER takes them."""

  nouns: tuple[str, ...]
  adjectives: tuple[str, ...]
  verbs: tuple[str, ...]

  @classmethod
  def load(cls) -> Self:
    """Returns the words of the installed package."""
    assets = importlib.resources.files("wonderwords") / "assets"
    return cls(
      *(
        tuple((assets / f"{part}list.txt").read_text("utf-8").splitlines())
        for part in ("noun", "adjective", "verb")
      )
    )

  def all(self) -> tuple[str, ...]:
    """Returns every word once, sorted."""
    return tuple(sorted({*self.nouns, *self.adjectives, *self.verbs}))

  def pair(self, rng: np.random.Generator) -> str:
    """Returns an adjective and a noun, joined by a hyphen."""
    return f"{_choose(rng, self.adjectives)}-{_choose(rng, self.nouns)}"


def number(rng: np.random.Generator) -> str:
  """Returns a number of seven digits."""
  low, high = 10 ** (_NUMBER_DIGITS - 1), 10**_NUMBER_DIGITS
  return str(rng.integers(low, high))


def random_uuid(rng: np.random.Generator) -> str:
  """Returns a UUID of version 4."""
  return str(uuid.UUID(bytes=rng.bytes(16), version=4))


def letters(rng: np.random.Generator, alphabet: str, length: int) -> str:
  """Returns a string of random letters."""
  return "".join(_choose(rng, alphabet) for _ in range(length))


def distinct(draw: Callable[[], str], count: int) -> list[str]:
  """Returns `count` results of `draw`, all different."""
  found: dict[str, None] = {}
  while len(found) < count:
    found[draw()] = None
  return list(found)


def _choose(rng, items):
  return items[rng.integers(len(items))]
