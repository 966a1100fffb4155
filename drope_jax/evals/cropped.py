"""A model that reads only the last trained context's length of a text.

This is the baseline for a longer context: no position is new to the model, and
it has not read what stands further back.
"""

from collections.abc import Sequence
import dataclasses
from typing import Self

import numpy as np

from drope_jax.evals import interface


@dataclasses.dataclass(frozen=True)
class Cropped(interface.Wrapper):
  """An `interface.LM` that reads no more than its context at a time.

  A prompt keeps its last tokens, so that prompt and answer fill the context. A
  sequence is scored in windows of the context that overlap by half, so that
  each token after the first window has between a half and a whole context
  before it. BOS stays at the beginning.

  Attributes:
    window_tokens: that it reads at a time; None: its context.
  """

  window_tokens: int | None = None

  @property
  def _window(self) -> int:
    return self.window_tokens or self.context_tokens

  def batch_size(self, tokens: int) -> int:
    return self.lm.batch_size(min(tokens, self._window))

  def logit_scale_at(self, tokens: int) -> float:
    return self.lm.logit_scale_at(min(tokens, self._window))

  def with_logit_scale(self, scale: float) -> Self:
    return dataclasses.replace(self, lm=self.lm.with_logit_scale(scale))

  def with_logit_slope(self, c: float, *, by_query: bool = False) -> Self:
    lm = self.lm.with_logit_slope(c, by_query=by_query)
    return dataclasses.replace(self, lm=lm)

  def loglikelihood(
    self, sequences: Sequence[Sequence[int]]
  ) -> list[np.ndarray]:
    windows, counts, parts = self._windows(sequences)
    return _joined(self.lm.loglikelihood(windows), counts, parts)

  def score(
    self, contexts: Sequence[Sequence[int]], endings: Sequence[Sequence[int]]
  ) -> list[interface.Scored]:
    windows, counts, parts = self._windows(
      [[*both[0], *both[1]] for both in zip(contexts, endings, strict=True)]
    )
    scored = self.lm.score(
      [window[:1] for window in windows], [window[1:] for window in windows]
    )
    log_p = _joined([window.log_p for window in scored], counts, parts)
    is_top = _joined([window.is_top for window in scored], counts, parts)
    own = [slice(len(context) - 1, None) for context in contexts]
    return [
      interface.Scored(x[of_ending], y[of_ending])
      for x, y, of_ending in zip(log_p, is_top, own, strict=True)
    ]

  def generate(
    self,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stop: Sequence[str] = (),
  ) -> list[list[int]]:
    cut = []
    for prompt in prompts:
      bos, rest = self._split(prompt)
      room = self._window - len(bos) - max_new_tokens
      if room < 1:
        raise ValueError(
          "A cropped prompt needs a token beside its answer in a context of "
          f"{self._window}, got an answer of {max_new_tokens}. Lower "
          "Suite.max_new_tokens."
        )
      cut.append([*bos, *rest[-room:]])
    return self.lm.generate(cut, max_new_tokens, stop=stop)

  def _windows(
    self, sequences: Sequence[Sequence[int]]
  ) -> tuple[list[list[int]], list[int], list[int]]:
    """Returns windows, how many a sequence has, and each one's new tokens."""
    windows, counts, parts = [], [], []
    for sequence in sequences:
      bos, rest = self._split(sequence)
      room = self._window - len(bos)
      stops = [*range(room, len(rest), room - room // 2), len(rest)]
      windows += [[*bos, *rest[max(stop - room, 0) : stop]] for stop in stops]
      parts += [len(bos) + stops[0] - 1, *np.diff(stops).tolist()]
      counts.append(len(stops))
    return windows, counts, parts

  def _split(
    self, sequence: Sequence[int]
  ) -> tuple[Sequence[int], Sequence[int]]:
    begins = len(sequence) and sequence[0] == self.bos_id
    return sequence[:begins], sequence[begins:]


def _joined(
  windows: Sequence[np.ndarray], counts: Sequence[int], parts: Sequence[int]
) -> list[np.ndarray]:
  """Returns the new tokens' values of each sequence's windows, joined."""
  new = iter(
    [
      values[len(values) - part :]
      for values, part in zip(windows, parts, strict=True)
    ]
  )
  return [np.concatenate([next(new) for _ in range(count)]) for count in counts]
