"""A language model as lm-evaluation-harness asks for one.

It answers as lm_eval's own `hf` model does: contexts that are too long lose
their beginning, and long texts are scored in windows. Read at lm_eval 0.4.13.
"""

from collections.abc import Sequence
import itertools
from typing import Any

import numpy as np

from drope_jax.evals import interface
from drope_jax.evals.harness import library

_NEW_TOKENS = 256
"""To generate where a task does not say, as with lm_eval's hf."""


class Answers:
  """How an `interface.LM` answers lm_eval's requests.

  It is a part of `model_class`, and so of lm_eval's own class of models.

  Attributes:
    lm: the model.
    max_length: tokens that it may read.
    tokens: length of each sequence that was scored or continued so far.
    truncated: how many of them lost their beginning.
  """

  cache_hook: Any  # Of lm_eval's class.

  def __init__(
    self, lm: interface.LM, max_length: int, prefix: Sequence[int] = ()
  ):
    """Wraps a model.

    Args:
      lm: the model.
      max_length: tokens that it may read.
      prefix: ids that every text begins with, such as BOS.
    """
    super().__init__()
    self.lm, self.max_length = lm, max_length
    self.tokens: list[int] = []
    self.truncated = 0
    self._begin = [*prefix]

  @property
  def eot_token_id(self) -> int:
    return self.lm.eos_id

  @property
  def prefix_token_id(self) -> int:
    return self.lm.eos_id if self.lm.bos_id is None else self.lm.bos_id

  def tok_encode(
    self, string: str, add_special_tokens: bool | None = None, **kwargs
  ) -> list[int]:
    begin = [] if add_special_tokens is False else self._begin
    return [*begin, *self.lm.encode(string)]

  def loglikelihood_rolling(
    self, requests, disable_tqdm: bool = False
  ) -> list[float]:
    utils = library.module("utils")
    windows = [
      [
        (None, *utils.make_disjoint_window(window))
        for window in utils.get_rolling_token_windows(
          token_list=self.tok_encode(request.args[0]),
          prefix_token=self.prefix_token_id,
          max_seq_len=self.max_length,
          context_len=1,
        )
      ]
      for request in requests
    ]
    answers = iter(self._loglikelihood_tokens([*itertools.chain(*windows)]))
    totals = [sum(next(answers)[0] for _ in own) for own in windows]
    for request, total in zip(requests, totals, strict=True):
      self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
    return totals

  def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
    normalize = library.module("models.utils").normalize_gen_kwargs
    groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for i, request in enumerate(requests):
      options = normalize(request.args[1], _NEW_TOKENS)
      if options["do_sample"]:
        raise ValueError(
          "The harness generates greedily, got a task with do_sample or a "
          f"temperature: {request.args[1]}. Leave the task out."
        )
      stop = tuple(text for text in options["until"] if text)
      groups.setdefault((options["max_gen_toks"], stop), []).append(i)
    texts: dict[int, str] = {}
    for (new_tokens, stop), members in groups.items():
      prompts = [
        self._cut(self._prompt(requests[i].args[0]), new_tokens)
        for i in members
      ]
      outputs = self.lm.generate(prompts, new_tokens, stop=stop)
      for i, ids in zip(members, outputs, strict=True):
        texts[i] = self._until(ids, stop)
        self.cache_hook.add_partial(
          "generate_until", requests[i].args, texts[i]
        )
    return [texts[i] for i in range(len(requests))]

  def _loglikelihood_tokens(
    self, requests, disable_tqdm: bool = False, **kwargs
  ) -> list[tuple[float, bool]]:
    for texts, _, continuation in requests:
      if not continuation:
        context, text = texts
        raise ValueError(
          "A continuation must have a token of its own after its context, got "
          f"{text!r} after {context[-20:]!r}. Begin it with a space."
        )
      if len(continuation) > self.max_length:
        raise ValueError(
          f"A continuation must fit {self.max_length} tokens, got one of "
          f"{len(continuation)}. Test the task at a longer length."
        )
    # The last token is not read, only predicted.
    contexts = [
      self._cut([*context, *continuation], -1)[: -len(continuation)]
      for _, context, continuation in requests
    ]
    scored = self.lm.score(contexts, [request[2] for request in requests])
    answers = []
    for (texts, *_), found in zip(requests, scored, strict=True):
      total = float(np.sum(found.log_p, dtype=np.float64))
      answers.append((total, bool(found.is_top.all())))
      if texts is not None:
        self.cache_hook.add_partial("loglikelihood", texts, answers[-1])
    return answers

  def _prompt(self, text: str) -> list[int]:
    return self.tok_encode(text) or [self.prefix_token_id]

  def _cut(self, ids: Sequence[int], new_tokens: int) -> Sequence[int]:
    """Returns the end of the ids that leaves room for the new tokens."""
    room = self.max_length - new_tokens
    if room < 1:
      raise ValueError(
        f"A task generates {new_tokens} tokens after its prompt, got a "
        f"length of {self.max_length}. Test it at a longer length."
      )
    self.truncated += len(ids) > room
    self.tokens.append(min(len(ids), room))
    return ids[-room:]

  def _until(self, ids: Sequence[int], stop: Sequence[str]) -> str:
    text = interface.text(self.lm, ids)
    for end in stop:
      text = text.split(end)[0]
    return text


def model_class() -> Any:
  """Returns the class of models, a subclass of lm_eval's `TemplateLM`.

  It is made here, since its base is of a library that may be missing.

  Raises:
    ValueError: lm_eval is not installed.
  """
  base = library.module("api.model").TemplateLM
  return type("HarnessModel", (Answers, base), {"__doc__": Answers.__doc__})
