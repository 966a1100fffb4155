"""A set of evals over length factors and position methods, alike for each.

Every method reads the same samples, and every method gets its own softmax
scale, fitted on a split of its own: a comparison in which one method alone has
a temperature says nothing.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import math
from typing import Any

from drope_jax.evals import (
  interface,
  logit_scale,
  needle_documents,
  niah,
  perplexity,
)
from drope_jax.evals import needles as needles_lib

PERPLEXITY = "perplexity"

Variant = Callable[[str, float], interface.LM]
"""From (method, factor) to the model read by that method at that factor."""


@dataclasses.dataclass(frozen=True)
class Suite:
  """What to evaluate.

  Attributes:
    evals: "perplexity", and tasks of `niah.tasks`.
    methods: "model" (as it is), "rope", "pi", "ntk", "yarn".
    factors: tested length / trained length.
    samples: of each retrieval task, one number for each factor.
    excerpts: documents of the longest length, for perplexity.
    max_new_tokens: of a retrieval answer; None is each task's own.
    needles: what is hidden; one wording for all tasks.
    begin_with_bos: whether every input begins with BOS, as imported Llamas
      expect; models trained on EOS-joined text do not.
    fit_factor: at which each method's c of beta = 1 + c ln s is fitted; it
      then serves every factor. None: evaluate without a scale alone.
    fit_excerpts: text documents that it is fitted on.
    fit_needle_documents: documents with needles and answered questions that it
      is fitted on as well.
    fit_evaluations: passes over them, for each method.
    seed: of all that is drawn.
  """

  evals: tuple[str, ...] = (PERPLEXITY, "passkey", "multi_key")
  methods: tuple[str, ...] = ("model",)
  factors: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
  samples: tuple[int, ...] = (100, 100, 100, 100)
  excerpts: int = 8
  max_new_tokens: int | None = None
  needles: needles_lib.Needles = dataclasses.field(
    default_factory=needles_lib.Needles
  )
  begin_with_bos: bool = False
  fit_factor: float | None = 4.0
  fit_excerpts: int = 4
  fit_needle_documents: int = 0
  fit_evaluations: int = 9
  seed: int = 0

  def __post_init__(self):
    known = (PERPLEXITY, *niah.tasks(self.needles))
    if not self.evals or (set(self.evals) - set(known)):
      raise ValueError(
        f"Suite.evals must be some of {', '.join(known)}, got "
        f"{', '.join(self.evals) or 'none'}. Name some of these."
      )
    if not self.factors or not all(1 <= f < math.inf for f in self.factors):
      raise ValueError(
        f"Suite.factors must be 1 or more, got {self.factors}. They are tested "
        "length / trained length."
      )
    for field in ("evals", "methods", "factors"):
      names = getattr(self, field)
      if not names or len(set(names)) < len(names):
        raise ValueError(
          f"Suite.{field} must be at least one, each named once, got {names}. "
          "Two rows of one sample would pass for two seeds."
        )
    if len(self.samples) != len(self.factors) or min(self.samples) < 1:
      raise ValueError(
        "Suite.samples needs a count of at least 1 for each of the factors "
        f"{self.factors}, got {self.samples}. Give as many."
      )
    if self.excerpts < 1:
      raise ValueError(
        f"Suite.excerpts must be at least 1, got {self.excerpts}. Raise it."
      )
    if self.fit_factor is not None and self.fit_factor <= 1:
      raise ValueError(
        "Suite.fit_factor must be above 1, where no slope shows, got "
        f"{self.fit_factor}. Raise it, or set None."
      )


@dataclasses.dataclass(frozen=True)
class Material:
  """The text that a suite reads; `test` and `fit` share no document."""

  test: Sequence[str]
  fit: Sequence[str]


def run(
  suite: Suite,
  model: str,
  variant: Variant,
  material: Material,
  on_result: Callable[[interface.Result], Any] = lambda result: None,
) -> tuple[list[interface.Result], dict[str, logit_scale.Fit]]:
  """Returns every result, and each method's fit.

  Args:
    suite: what to evaluate.
    model: the name in the results.
    variant: gives the model for a method and a factor.
    material: text.
    on_result: called with each result as it comes.
  """
  # What cannot be read or drawn is refused here, before hours of work.
  lm, *_ = [variant(method, 1.0) for method in suite.methods]
  inputs = _Inputs(suite, lm, material)
  evaluations = {
    factor: list(inputs.evaluations(factor, count))
    for factor, count in zip(suite.factors, suite.samples, strict=True)
  }
  fits = {}
  if suite.fit_factor is not None:
    documents = inputs.fit_documents()
    for method in suite.methods:
      fits[method] = logit_scale.fit(
        variant(method, suite.fit_factor),
        documents,
        suite.fit_factor,
        evaluations=suite.fit_evaluations,
      )
  results = []
  for factor in suite.factors:
    for method in suite.methods:
      for condition in _conditions(suite, model, method, factor, fits):
        for evaluate in evaluations[factor]:
          for result in evaluate(variant(method, factor), condition):
            results.append(result)
            on_result(result)
  return results, fits


def _conditions(suite, model, method, factor, fits):
  plain = interface.Condition(model, method, seed=suite.seed)
  yield plain
  # At the trained length the fitted scale is 1: the same numbers again.
  if method in fits and factor != 1:
    yield dataclasses.replace(
      plain,
      logit_scale=logit_scale.scale_at(fits[method].c, factor),
      scale_fitted=True,
    )


class _Inputs:
  """Samples and documents of a suite, the same for each method."""

  def __init__(self, suite: Suite, lm: interface.LM, material: Material):
    if suite.begin_with_bos and lm.bos_id is None:
      raise ValueError(
        "Suite.begin_with_bos needs a tokenizer with BOS, got one without. "
        "Set it to False."
      )
    lengths = [round(f * lm.context_tokens) for f in suite.factors]
    if len(set(lengths)) < len(lengths):
      raise ValueError(
        "Suite.factors must test lengths that differ, got "
        f"{suite.factors} of {lm.context_tokens} tokens, which are {lengths}. "
        "Leave out a factor."
      )
    self._suite, self._lm, self._material = suite, lm, material
    self._bos_id = lm.bos_id if suite.begin_with_bos else None
    self._excerpts = (
      self._text(material.test, max(suite.factors), "excerpts")
      if PERPLEXITY in suite.evals
      else []
    )

  def evaluations(self, factor: float, count: int) -> Iterator[Callable]:
    """Yields functions from (lm, condition) to results."""
    for name in self._suite.evals:
      if name == PERPLEXITY:
        yield lambda lm, condition: perplexity.evaluate(
          lm, self._excerpts, factor, condition
        )
      else:
        yield self._retrieval(name, factor, count)

  def fit_documents(self) -> list[list[int]]:
    """Returns token lists of `fit_factor` times the context."""
    suite = self._suite
    return [
      *self._text(self._material.fit, suite.fit_factor, "fit_excerpts"),
      *self._needle_documents(),
    ]

  def _retrieval(self, name: str, factor: float, count: int) -> Callable:
    suite, lm = self._suite, self._lm
    task = niah.tasks(suite.needles)[name]
    if suite.max_new_tokens is not None:
      task = dataclasses.replace(task, max_new_tokens=suite.max_new_tokens)
    samples = niah.samples(
      task,
      lm.encode,
      self._material.test,
      round(factor * lm.context_tokens),
      count,
      suite.seed,
      self._bos_id,
    )
    return lambda lm, condition: niah.evaluate(task, lm, samples, condition)

  def _text(
    self, documents: Sequence[str], factor: float, field: str
  ) -> list[list[int]]:
    """Returns as many runs of text as the suite's field says."""
    prefix = [] if self._bos_id is None else [self._bos_id]
    tokens = round(factor * self._lm.context_tokens) - len(prefix)
    count, seed = getattr(self._suite, field), self._suite.seed
    encoded = map(self._lm.encode, documents)
    try:
      runs = perplexity.excerpts(encoded, tokens, count, seed)
    except ValueError as error:
      raise ValueError(f"Suite.{field}: {error}") from error
    return [prefix + run for run in runs]

  def _needle_documents(self) -> Iterator[list[int]]:
    suite, lm = self._suite, self._lm
    if not suite.fit_needle_documents:
      return iter(())
    return needle_documents.training_documents(
      needle_documents.NeedleDocuments(needles=suite.needles),
      lm.encode,
      list(self._material.fit),
      tokens=round(suite.fit_factor * lm.context_tokens),
      count=suite.fit_needle_documents,
      seed=suite.seed + 1,
      eos_id=lm.eos_id,
    )
