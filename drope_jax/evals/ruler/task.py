"""How a RULER task draws its samples: the length search of RULER's scripts.

A haystack has a size: words, lines or documents, as each kind of task counts.
The size is searched once for a length, by drafts; a sample that is then too
long is drafted again with a smaller size, and at the smallest size with other
keys and values.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/. There the search never
ends where no draft of the smallest size fits; here that is an error.
"""

from collections.abc import Callable
import dataclasses
from typing import Protocol

import numpy as np

from drope_jax.evals.retrieval import Sample
from drope_jax.evals.task import Order


@dataclasses.dataclass(frozen=True)
class Draft:
  """A prompt before it is known to fit; fields as of `retrieval.Sample`."""

  prompt: str
  answers: tuple[str, ...]
  others: tuple[str, ...] = ()
  queries: tuple[str, ...] = ()
  depth: int | None = None


_SLACK = 3
"""Times the size estimated to fit, up to which the search goes."""

_TRIES = 20
"""Drafts of the smallest size, of which one should fit."""

Drafter = Callable[[int, np.random.Generator, int], Draft]
"""From a size, a generator and the sample's index to a draft."""

TokensOf = Callable[[int], int]
"""From a size to the tokens of a draft of it."""


class Kind(Protocol):
  """A kind of RULER task: a frozen dataclass of its settings.

  Attributes:
    new_tokens: to generate.
    ends: see `retrieval.Sample`.
    alternatives: see `retrieval.Sample`.
  """

  new_tokens: int
  ends: str
  alternatives: bool

  def drafter(self, order: Order, length: int) -> Drafter:
    """Returns what drafts a prompt for a length.

    Raises:
      FileNotFoundError, ValueError: a file that it reads is missing or is not
        what it should be.
    """
    ...

  def step(self, length: int, room: int) -> int:
    """Returns by how much a size that is too large is lowered."""
    ...

  def size(self, tokens_of: TokensOf, length: int, room: int, step: int) -> int:
    """Returns the size that samples begin with; by default as `search`.

    Args:
      tokens_of: counts the tokens of a draft.
      length: tokens of prompt and answer together.
      room: tokens of a prompt, at most.
      step: see `step`.
    """
    return search(tokens_of, length, room, step)


def samples(kind: Kind, name: str, order: Order) -> dict[int, list[Sample]]:
  """Returns a RULER task's samples of each length.

  Sample i depends on the kind, the text, the length, the seed and i alone.

  Raises:
    FileNotFoundError: as `Kind.drafter`.
    ValueError: as `Kind.drafter`; or the smallest haystack is too long.
  """
  return {
    length: _of_length(kind, name, order, length, count)
    for length, count in zip(order.lengths, order.counts, strict=True)
  }


def search(tokens_of: TokensOf, length: int, room: int, step: int) -> int:
  """Returns RULER's search from `step` up to a multiple of an estimate.

  Args:
    tokens_of: counts the tokens of a draft.
    length: tokens that the estimate fills, at the tokens of a draft of `step`.
    room: tokens of a draft, at most.
    step: the smallest size.
  """
  estimate = int(_SLACK * length * step / tokens_of(step))
  return largest_fit(tokens_of, room, step, estimate)


def largest_fit(
  tokens_of: TokensOf, room: int, smallest: int, largest: int
) -> int:
  """Returns RULER's binary search: the largest size found to fit.

  Drafts are random, so that a size may fit once and not the next time. Where
  none is found, it is `smallest`.
  """
  low, high, found = smallest, max(largest, 2 * smallest), smallest
  while low <= high:
    middle = (low + high) // 2
    if tokens_of(middle) <= room:
      found, low = middle, middle + 1
    else:
      high = middle - 1
  return found


def _of_length(kind, name, order, length, count):
  new_tokens = order.max_new_tokens or kind.new_tokens
  room = length - len(order.prefix) - new_tokens
  if room < 1:
    raise ValueError(
      f"{name} generates {new_tokens} tokens after its prompt, got a length of "
      f"{length}. Test it at a longer length, or lower Suite.max_new_tokens."
    )
  draft = kind.drafter(order, length)
  step = kind.step(length, room)
  rng = np.random.default_rng((order.seed, length))

  def tokens_of(size: int) -> int:
    return len(order.encode(draft(size, rng, 0).prompt))

  size = kind.size(tokens_of, length, room, step)
  return [
    _sample(kind, name, order, length, new_tokens, draft, size, step, index)
    for index in range(count)
  ]


def _sample(kind, name, order, length, new_tokens, draft, size, step, index):
  rng = np.random.default_rng((order.seed, length, index))
  tries = _TRIES
  while tries:
    drafted = draft(size, rng, index)
    ids = (*order.prefix, *order.encode(drafted.prompt))
    if len(ids) + new_tokens <= length:
      return Sample(
        prompt_tokens=ids,
        length=length,
        max_new_tokens=new_tokens,
        ends=kind.ends,
        alternatives=kind.alternatives,
        **vars(drafted),
      )
    if size > step:
      size -= step
    else:
      tries -= 1
  raise ValueError(
    f"{name} needs about {len(ids) + new_tokens} tokens with its smallest "
    f"haystack, got a length of {length}. Test it at a longer length."
  )
