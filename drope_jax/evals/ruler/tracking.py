"""RULER's variable tracking: vt.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/variable_tracking.py.
"""

from collections.abc import Sequence
import dataclasses
import string

import numpy as np

from drope_jax.evals.retrieval import LINE_END
from drope_jax.evals.ruler import task, words
from drope_jax.evals.ruler.niah import NOISE
from drope_jax.evals.ruler.task import Draft
from drope_jax.evals.task import Order

TEMPLATE = (
  "Memorize and track the chain(s) of variable assignment hidden in the "
  "following text.\n\n{context}\nQuestion: Find all variables that are "
  "assigned the value {value} in the text above. Answer: According to the "
  "chain(s) of variable assignment in the text above, {count} variables are "
  "assigned the value {value}, they are: "
)
_NAME_LETTERS, _EXAMPLE_NAME_LETTERS = 5, 3
_EXAMPLE_TOKENS, _EXAMPLE_STEP = 500, 5
_STEP, _SHORT_STEP, _SHORT_TOKENS = 10, 5, 4096


@dataclasses.dataclass(frozen=True)
class Tracking(task.Kind):
  """A chain of assignments in noise; all its variables are asked for.

  A solved example of about 500 tokens stands before the text. Its places are
  the same in all prompts of a length, its names and its value are not.

  Attributes:
    hops: assignments of one variable to the next.
  """

  hops: int = 4

  new_tokens = 30
  ends = LINE_END
  alternatives = False

  def drafter(self, order: Order, length: int) -> task.Drafter:
    """See `task.Kind`; a size is lines of noise."""
    rng = np.random.default_rng((order.seed, length, 0))

    def example_tokens(size: int) -> int:
      places = _places(rng, size, self.hops)
      return len(order.encode(self._example(size, places, rng)))

    example_size = task.search(
      example_tokens, _EXAMPLE_TOKENS, _EXAMPLE_TOKENS, _EXAMPLE_STEP
    )
    example_places = _places(rng, example_size, self.hops)

    def draft(size: int, rng: np.random.Generator, index: int) -> Draft:
      # Lowered by a step, a size may have fewer lines than assignments.
      size = max(size, self.hops + 1)
      example = self._example(example_size, example_places, rng)
      names = self._names(rng, _NAME_LETTERS)
      text = prompt(names, _value(rng), size, _places(rng, size, self.hops))
      return Draft(example + text, tuple(names))

    return draft

  def step(self, length: int, room: int) -> int:
    """See `task.Kind`."""
    return _SHORT_STEP if length < _SHORT_TOKENS else _STEP

  def _names(self, rng, letters):
    return words.distinct(
      lambda: words.letters(rng, string.ascii_uppercase, letters),
      self.hops + 1,
    )

  def _example(self, size, places, rng):
    names = self._names(rng, _EXAMPLE_NAME_LETTERS)
    return solved(names, _value(rng), size, places)


def prompt(
  names: Sequence[str], value: str, size: int, places: Sequence[int]
) -> str:
  """Returns a text with a chain, and the question, up to the answer.

  Args:
    names: of the variables, each assigned to the next.
    value: of the first.
    size: lines of noise.
    places: rising, the line of noise before which each assignment stands.
  """
  chain = [f"VAR {names[0]} = {value}"]
  for before, name in zip(names, names[1:], strict=False):
    chain.append(f"VAR {name} = VAR {before} ")
  lines = [NOISE] * size
  for done, (place, assignment) in enumerate(zip(places, chain, strict=True)):
    lines.insert(place + done, assignment)
  context = "\n".join(lines)
  return TEMPLATE.format(context=context, value=value, count=len(names))


def solved(
  names: Sequence[str], value: str, size: int, places: Sequence[int]
) -> str:
  """Returns `prompt` with its answer, as it stands before another one."""
  answer = " ".join(names)
  return f"{prompt(names, value, size, places)} {answer}\n\n"


def _value(rng):
  return str(rng.integers(10_000, 99_999))


def _places(rng, size, hops):
  return np.sort(rng.choice(size, hops + 1, replace=False)).tolist()
