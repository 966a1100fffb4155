"""Needle in a haystack: facts hidden in held-out text, asked for at its end.

The tasks are made of text, for any tokenizer, in RULER's wording or in one
shortened for small vocabularies (`needles`). They fill the tested length;
RULER's own tasks, to the letter, are in `ruler`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import dataclasses
from typing import Protocol

import numpy as np

from drope_jax.evals import needles as needles_lib
from drope_jax.evals import retrieval, running_text
from drope_jax.evals.metric import Metric
from drope_jax.evals.retrieval import Sample
from drope_jax.evals.task import Order

DEPTHS = np.round(np.linspace(0, 100, 40)).astype(int)
"""RULER's, in percent of the haystack's sentences."""


@dataclasses.dataclass(frozen=True)
class Niah(retrieval.RetrievalTask):
  """A retrieval task.

  Attributes:
    name: in results.
    num_keys: keys hidden. With one, no key needs to be read: that is a passkey.
    num_values: values of each key, in a needle each.
    num_queries: keys asked for, each drawn independently of the others: drawn
      without replacement, the last could be answered by exclusion. A key drawn
      twice is listed twice.
    max_new_tokens: generated, and kept free within the length.
    questions: samples that share a haystack with its needles, and the prefill
      of both; each asks for other keys. More than one save most of the time.
      They say less than as many haystacks would; intervals account for this.
    needles: what needles say; None: what the suite's say.
  """

  name: str
  num_keys: int = 1
  num_values: int = 1
  num_queries: int = 1
  max_new_tokens: int = 16
  questions: int = 1
  needles: needles_lib.Needles | None = None

  def __post_init__(self):
    numbers = {
      name: getattr(self, name)
      for name in ("num_keys", "num_values", "num_queries", "max_new_tokens")
    }
    hidden = self.num_keys * self.num_values
    if min(numbers.values()) < 1 or hidden > len(DEPTHS):
      raise ValueError(
        "Niah needs at least one key, value, query and new token, and at most "
        f"{len(DEPTHS)} needles, got {numbers}. Change them."
      )
    if not 1 <= self.questions <= self.num_keys:
      raise ValueError(
        "Niah needs 1 to num_keys questions about a haystack, got "
        f"{self.questions} and {self.num_keys} keys. Change one of them."
      )

  @property
  def metrics(self) -> tuple[Metric, ...]:
    return retrieval.ALL_NEEDED

  def expand(self) -> tuple["Niah"]:
    """Returns itself: a suite can hold it as a group of one task."""
    return (self,)

  def only(self, names: Collection[str]) -> "Niah | None":
    return self if self.name in names else None

  def draw(self, order: Order) -> Mapping[int, Sequence[Sample]]:
    """Returns the samples of each length; see `samples`."""
    task = dataclasses.replace(
      self,
      needles=self.needles or order.needles,
      max_new_tokens=order.max_new_tokens or self.max_new_tokens,
    )
    return {
      length: samples(
        task,
        order.encode,
        order.documents,
        length,
        count,
        order.seed,
        order.prefix,
      )
      for length, count in zip(order.lengths, order.counts, strict=True)
    }


TASKS = (
  Niah("passkey"),
  Niah("multi_key", num_keys=4),
  Niah("multi_value", num_values=4, max_new_tokens=32),
  Niah("multi_query", num_keys=4, num_queries=2, max_new_tokens=32),
)


def samples(
  task: Niah,
  encode: needles_lib.Encode,
  documents: Iterable[str],
  length: int,
  count: int,
  seed: int,
  prefix: tuple[int, ...] = (),
) -> list[Sample]:
  """Returns `count` prompts that fill `length` tokens with the answer.

  The haystack is a random run of the documents' words that ends with a
  sentence. A run that reaches the start of its document continues in the one
  before it, and from the first document in the last one. Its first sentence is
  cut so that prompt and answer are at most `length` tokens, and shorter by less
  than a word. Needles stand between sentences, at distinct depths.

  Args:
    task: with its needles.
    encode: text to ids.
    documents: held-out text.
    length: tokens of prefix, prompt and answer together.
    count: of samples.
    seed: sample i depends on the arguments and (seed, i // questions) alone.
      Training documents, documents to fit the logit scale on and the test need
      different seeds and different text.
    prefix: ids that the prompt begins with, such as BOS.

  Raises:
    ValueError: not even one word of haystack fits, or there is no text.
  """
  text = running_text.RunningText.of(encode, documents, length)
  made = [
    sample
    for index in range(-(-count // task.questions))
    for sample in _of_a_haystack(
      task, encode, text, length, np.random.default_rng((seed, index)), prefix
    )
  ]
  return made[:count]


def _of_a_haystack(task, encode, text, length, rng, prefix) -> list[Sample]:
  """Returns the samples of a haystack, which fits the longest question."""
  needles = task.needles
  pairs = needles.draw(rng, task.num_keys, task.num_values)
  hidden = [(key, value) for key, values in pairs.items() for value in values]
  hidden = [hidden[i] for i in rng.permutation(len(hidden))]
  depths = np.sort(rng.choice(DEPTHS, len(hidden), replace=False))
  keys = list(pairs)
  drawn = rng.integers(len(keys), size=task.num_queries)
  queries = [
    tuple(keys[(i + question) % len(keys)] for i in drawn)
    for question in range(task.questions)
  ]
  around = [needles.around(asked, task.num_values) for asked in queries]
  before, longest = max(around, key=lambda texts: len(encode(texts[1])))
  stop = text.draw_end(rng)

  facts = [needles.needle(*pair) for pair in hidden]

  def prompt(haystack: list[str]) -> str:
    return before + " ".join(hide(haystack, depths, facts)) + longest

  made = filled(task, text, encode, prompt, stop, length, prefix)
  haystack = made.removesuffix(longest)
  values = [value for _, value in hidden]
  found = []
  for asked, (_, ask) in zip(queries, around, strict=True):
    answers = tuple(value for key in asked for value in pairs[key])
    found.append(
      Sample(
        prompt=haystack + ask,
        prompt_tokens=(*prefix, *encode(haystack + ask)),
        queries=asked,
        answers=answers,
        length=length,
        max_new_tokens=task.max_new_tokens,
        others=tuple(value for value in values if value not in answers),
        depth=int(depths[values.index(answers[0])]),
        together=task.questions,
      )
    )
  return found


class Asking(Protocol):
  """A task that asks for an answer."""

  @property
  def name(self) -> str: ...

  @property
  def max_new_tokens(self) -> int: ...


def hide(
  haystack: Sequence[str], depths: Sequence[int], facts: Sequence[str]
) -> list[str]:
  """Returns sentences with facts between them.

  Args:
    haystack: sentences.
    depths: where each fact stands, in percent of the sentences, rising.
    facts: sentences to hide.
  """
  found = list(haystack)
  places = len(haystack) * np.asarray(depths) // 100
  # From the end, so that earlier places do not move.
  for place, fact in reversed(list(zip(places, facts, strict=True))):
    found.insert(place, fact)
  return found


def filled(
  task: Asking,
  text: running_text.RunningText,
  encode: needles_lib.Encode,
  prompt: Callable[[list[str]], str],
  stop: int,
  length: int,
  prefix: tuple[int, ...],
) -> str:
  """Returns a task's prompt that fills a length with its answer.

  Args:
    task: whose answer needs room.
    text: to fill it with.
    encode: text to ids.
    prompt: from sentences to the prompt.
    stop: where the text ends.
    length: tokens of prefix, prompt and answer together.
    prefix: ids that the prompt begins with.

  Raises:
    ValueError: not even one word of text fits.
  """
  more = len(prefix) + task.max_new_tokens
  try:
    return text.fill(encode, prompt, stop, length - more)
  except running_text.TooLong as error:
    raise ValueError(
      f"Task {task.name} needs {error.tokens + more} tokens for "
      f"its needles, question, a word of text and {task.max_new_tokens} new "
      f"tokens, got a length of {length}. Use a longer length or fewer keys."
    ) from None
