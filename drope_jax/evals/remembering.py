"""A model that remembers what it has read, so that a cut loses little.

An evaluation that was cut off asks again for all samples of the step it was
in. Those that are remembered are not read again.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import json
from typing import Any, Protocol, Self

import numpy as np

from drope_jax.evals import interface

# How many of the model's batches are read at once, at most, so that sequences
# that begin alike are among them: the model reads their beginning once.
_BATCHES = 8

# Prompts of a task end differently; lengths are sorted in steps of this.
_LENGTH_STEP = 64

OnRead = Callable[[int], None]
"""Called with the tokens of samples that have been read."""


class Memory(Protocol):
  """Readings by key, each of one sample."""

  def recall(self, key: str) -> Any | None:
    """Returns what was added under the key; None if nothing was."""
    ...

  def add(self, readings: Mapping[str, Any], about: Sequence[Any]) -> None:
    """Keeps new readings, and returns when a crash would not lose them.

    Args:
      readings: by key: ids that were generated, or log-likelihoods.
      about: of each reading, the fields that describe it.
    """
    ...


class Forgetful:
  """A `Memory` that keeps nothing."""

  def recall(self, key: str) -> None:
    return None

  def add(self, readings: Mapping[str, Any], about: Sequence[Any]) -> None:
    pass


class Recent:
  """A `Memory` that also keeps all readings of the last model and length.

  Another task on the same texts is then read from it.
  """

  def __init__(self, memory: Memory):
    """Keeps nothing yet.

    Args:
      memory: has all readings too.
    """
    self._memory = memory
    self._condition: tuple[Any, ...] = ()
    self._readings: dict[str, Any] = {}

  def of(self, *condition: Any) -> Self:
    """Returns it without the readings of another condition."""
    if condition != self._condition:
      self._condition, self._readings = condition, {}
    return self

  def recall(self, key: str) -> Any | None:
    found = self._readings.get(key)
    return self._memory.recall(key) if found is None else found

  def add(self, readings: Mapping[str, Any], about: Sequence[Any]) -> None:
    self._memory.add(readings, about)
    self._readings |= readings


@dataclasses.dataclass(frozen=True)
class Remembering(interface.Wrapper):
  """An `interface.LM` that keeps each sample's reading, batch by batch.

  Attributes:
    memory: of its readings.
    about: what tells this model apart from others in the memory: its name,
      method and length; and the task, which does not.
    on_read: called after each batch.
    scale: of the attention logits, once one is set.
    keeps_scale: whether the model scales each text by its own length, so that
      no scale is set.
  """

  memory: Memory
  about: Mapping[str, Any]
  on_read: OnRead = lambda tokens: None
  scale: float | None = None
  keeps_scale: bool = False

  def batch_size(self, tokens: int) -> int:
    return self.lm.batch_size(tokens)

  def logit_scale_at(self, tokens: int) -> float:
    return self.lm.logit_scale_at(tokens)

  def with_logit_scale(self, scale: float) -> Self:
    lm = self.lm if self.keeps_scale else self.lm.with_logit_scale(scale)
    return dataclasses.replace(self, lm=lm, scale=scale)

  def with_logit_slope(self, c: float, *, by_query: bool = False) -> Self:
    form = "query_scale_slope" if by_query else "logit_scale_slope"
    about = {**self.about, form: c}
    lm = self.lm.with_logit_slope(c, by_query=by_query)
    return dataclasses.replace(
      self, lm=lm, about=about, scale=None, keeps_scale=True
    )

  def loglikelihood(
    self, sequences: Sequence[Sequence[int]]
  ) -> list[np.ndarray]:
    def read(part):
      return self.lm.loglikelihood([ids for (ids,) in part])

    return self._read("loglikelihood", [(ids,) for ids in sequences], read)

  def score(
    self, contexts: Sequence[Sequence[int]], endings: Sequence[Sequence[int]]
  ) -> list[interface.Scored]:
    def read(part):
      scored = self.lm.score(*map(list, zip(*part, strict=True)))
      # One array each, as a memory keeps them.
      return [np.concatenate(both) for both in scored]

    pairs = list(zip(contexts, endings, strict=True))
    joined = self._read("score", pairs, read, batches=_BATCHES)
    halves = (np.split(both, 2) for both in joined)
    return [
      interface.Scored(log_p, is_top.astype(bool)) for log_p, is_top in halves
    ]

  def generate(
    self,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stop: Sequence[str] = (),
  ) -> list[list[int]]:
    def read(part):
      ids = [ids for (ids,) in part]
      return self.lm.generate(ids, max_new_tokens, stop=stop)

    return self._read(
      "generate", [(ids,) for ids in prompts], read, max_new_tokens, *stop
    )

  def _read(self, how, asked, read, *options, batches=1):
    """Returns the readings of all, from the memory or the model.

    Args:
      how: the kind of reading.
      asked: tuples of ids.
      read: returns the model's readings of some of these.
      *options: what else a reading depends on.
      batches: of the model, that are read at once at least.
    """
    keys = [self._key(how, ids, options) for ids in asked]
    found = {key: self.memory.recall(key) for key in keys}
    missing = {
      key: ids
      for key, ids in zip(keys, asked, strict=True)
      if found[key] is None
    }
    self.on_read(sum(map(_size, asked)) - sum(map(_size, missing.values())))
    for part in self._batches(missing, batches):
      read_part = read([missing[key] for key in part])
      new = dict(zip(part, read_part, strict=True))
      self.memory.add(
        new, [self._described(missing[key], new[key], how) for key in part]
      )
      found |= new
      self.on_read(sum(_size(missing[key]) for key in part))
    return [found[key] for key in keys]

  def _batches(self, missing, batches):
    """Yields keys that are read together: of similar length and beginning.

    The last one may be nearly twice as large: a small rest by itself would be
    a shape of its own, for which a program is compiled.
    """

    def order(key):
      begin, *ending = missing[key]
      step = 1 if ending else _LENGTH_STEP
      return -(len(begin) // step), [*begin], -_size(missing[key])

    keys = sorted(missing, key=order)
    while keys:
      of_model = self.lm.batch_size(_size(missing[keys[0]]))
      size = batches * of_model
      while size < min(len(keys), _BATCHES * of_model) and _begin_alike(
        missing[keys[size - 1]][0], missing[keys[size]][0]
      ):
        size += 1
      if len(keys) < 2 * size:
        size = len(keys)
      yield keys[:size]
      keys = keys[size:]

  def _key(self, how, asked, options) -> str:
    """Returns a SHA-256 of all that a reading depends on."""
    about = {name: x for name, x in self.about.items() if name != "task"}
    scale = self.scale, self.keeps_scale
    sizes = [*map(len, asked)]
    text = json.dumps([how, options, about, scale, sizes], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    digest.update(np.concatenate(asked).astype(np.int64).tobytes())
    return digest.hexdigest()

  def _described(self, asked, reading, how):
    if how != "generate":
      return {}
    (prompt,) = asked
    return {
      **self.about,
      "logit_scale": self.scale,
      "prompt": self.decode(prompt),
      "output": interface.text(self.lm, reading),
    }


def _size(asked: tuple[Sequence[int], ...]) -> int:
  return sum(map(len, asked))


def _begin_alike(first: Sequence[int], second: Sequence[int]) -> bool:
  half = len(first) // 2
  return [*first[:half]] == [*second[:half]]
