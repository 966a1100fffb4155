"""Order in context: three generated tasks that fail without positions.

A model without positions has the causal mask alone to tell what came first.
Items are words of `Needles.words`, hidden in held-out text as needles are. The
strict score counts their order; RULER's does not.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Literal

import numpy as np

from drope_jax.evals import niah, retrieval, running_text
from drope_jax.evals.metric import Metric
from drope_jax.evals.needles import listing
from drope_jax.evals.retrieval import Sample
from drope_jax.evals.task import Order

METRICS = tuple(
  dataclasses.replace(metric, topic="Order") for metric in retrieval.ALL_NEEDED
)


@dataclasses.dataclass(frozen=True)
class Ordering(retrieval.RetrievalTask):
  """A task on the order of items.

  Attributes:
    kind: "item", one list is hidden, and its k-th item is asked for; "first",
      items are hidden apart from each other, and the question names two of
      them; "sort", as "first", and the question names all, in another order.
    name: in results.
    items: hidden.
    max_new_tokens: generated, and kept free within the length.
  """

  kind: Literal["item", "first", "sort"]
  name: str
  items: int
  max_new_tokens: int = 16

  @property
  def metrics(self) -> tuple[Metric, ...]:
    return METRICS

  def draw(self, order: Order) -> Mapping[int, Sequence[Sample]]:
    """Returns the samples of each length.

    Sample i depends on the text, the length, the seed and i alone.

    Raises:
      ValueError: there are too few words, or no room for a word of text.
    """
    words = order.needles.words
    if words is None or len(words) < self.items:
      raise ValueError(
        f"Task {self.name} needs {self.items} words, got {len(words or ())}. "
        "Lengthen Needles.words."
      )
    task = dataclasses.replace(
      self, max_new_tokens=order.max_new_tokens or self.max_new_tokens
    )
    found = {}
    for length, count in zip(order.lengths, order.counts, strict=True):
      text = running_text.RunningText.of(order.encode, order.documents, length)
      found[length] = [
        _sample(task, order, text, length, (order.seed, index))
        for index in range(count)
      ]
    return found


TASKS = (
  Ordering("item", "list_item", items=6),
  Ordering("first", "which_first", items=2),
  Ordering("sort", "in_order", items=4, max_new_tokens=32),
)


def _sample(task, order, text, length, seed) -> Sample:
  rng = np.random.default_rng(seed)
  words = order.needles.words
  drawn = rng.choice(len(words), task.items, replace=False)
  items = [words[i] for i in drawn]
  shuffled = [items[i] for i in rng.permutation(task.items)]
  match task.kind:
    case "item":
      place = int(rng.integers(task.items))
      facts = [f"The list is: {', '.join(items)}."]
      ask = (
        f"\nWhich item of the list is number {place + 1}? Item number "
        f"{place + 1} of the list is"
      )
      answers = items[place : place + 1]
    case "first":
      facts = [_fact(item) for item in items]
      ask = (
        f"\nWhich of {' and '.join(shuffled)} came first in the text? The one "
        "that came first is"
      )
      answers = items[:1]
    case "sort":
      facts = [_fact(item) for item in items]
      ask = (
        f"\nPut {listing(shuffled)} in the order in which they came in the "
        "text. In that order they are"
      )
      answers = items
  depths = np.sort(rng.choice(niah.DEPTHS, len(facts), replace=False))

  def prompt(haystack: list[str]) -> str:
    return " ".join(niah.hide(haystack, depths, facts)) + ask

  stop = text.draw_end(rng)
  made = niah.filled(
    task, text, order.encode, prompt, stop, length, order.prefix
  )
  return Sample(
    prompt=made,
    prompt_tokens=(*order.prefix, *order.encode(made)),
    answers=tuple(answers),
    length=length,
    max_new_tokens=task.max_new_tokens,
    others=tuple(item for item in items if item not in answers),
    depth=int(depths[0]),
    ordered=True,
  )


def _fact(item: str) -> str:
  return f"A word to remember: {item}."
