"""What a suite asks of an eval: one file, and its line in `registry`."""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
from typing import Any, Protocol

from drope_jax.evals import interface
from drope_jax.evals.metric import Metric
from drope_jax.evals.needles import Needles


@dataclasses.dataclass(frozen=True)
class Order:
  """For which samples a suite asks; the same for all of its tasks.

  Attributes:
    encode: text to ids, without BOS or EOS.
    decode: ids to text.
    documents: held-out text.
    context_tokens: the trained length.
    lengths: tokens of prompt and answer together, one for each tested length.
    counts: samples of each length.
    excerpts: runs of text, for a task that needs no questions.
    seed: of all draws.
    prefix: ids that every input begins with, such as BOS, and that its length
      includes.
    needles: what is hidden, for a task without needles of its own.
    max_new_tokens: of an answer; None: the task's own number.
  """

  encode: Callable[[str], list[int]]
  decode: Callable[[Sequence[int]], str]
  documents: Sequence[str]
  context_tokens: int
  lengths: tuple[int, ...]
  counts: tuple[int, ...]
  excerpts: int
  seed: int
  prefix: tuple[int, ...]
  needles: Needles
  max_new_tokens: int | None


class Task(Protocol):
  """An eval with one name in results: a frozen dataclass of its settings.

  Attributes:
    name: in results.json and in `Suite.evals`.
    metrics: of its results.
  """

  @property
  def name(self) -> str: ...

  @property
  def metrics(self) -> tuple[Metric, ...]: ...

  def draw(self, order: Order) -> Mapping[int, Sequence[Any]]:
    """Returns the samples of each length.

    All are drawn before any model runs, and are the same for every model.

    Raises:
      FileNotFoundError, ValueError: the text, the lengths or a file that the
        task reads cannot be used.
    """
    ...

  def evaluate(
    self,
    lm: interface.LM,
    samples: Sequence[Any],
    condition: interface.Condition,
  ) -> list[interface.Result]:
    """Returns a result of each metric on the samples of one length."""
    ...


class Group(Protocol):
  """Tasks with settings in common; stands in `Suite.evals` for all of them."""

  def expand(self) -> tuple[Task, ...]:
    """Returns the tasks."""
    ...

  def only(self, names: Collection[str]) -> "Group | None":
    """Returns the group with the tasks of these names; None for none of them.

    Args:
      names: of tasks in results. One that the group does not hold, but could
        with its settings, is held then.
    """
    ...
