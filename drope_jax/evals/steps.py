"""The steps of a suite; the results of each are kept as soon as it is done.

Every method reads the same samples, once with the model's own softmax scale and
once with a scale that is fitted for the method on other text. To fit it for one
method alone would not be a fair comparison.
"""

from collections.abc import Callable, Sequence
import dataclasses

from drope_jax.evals import (
  interface,
  logit_scale,
  needle_documents,
  perplexity,
)
from drope_jax.evals.suite import Material, Suite
from drope_jax.evals.task import Order, Task

Variant = Callable[[str, float], interface.LM]
"""From (method, factor) to the model under that method at that factor."""


@dataclasses.dataclass
class Record:
  """The results so far; a step adds to them.

  Attributes:
    rows: results.
    fits: softmax scales by model and method.
  """

  rows: list[interface.Result] = dataclasses.field(default_factory=list)
  fits: dict[str, dict[str, logit_scale.Fit]] = dataclasses.field(
    default_factory=dict
  )

  def holds(
    self, task: str, length: int, condition: interface.Condition
  ) -> bool:
    """Returns whether there are results of a task at a length."""
    return any(
      (row.task, round(row.factor * row.context_tokens)) == (task, length)
      and (row.model, row.method, row.scale_fitted)
      == (condition.model, condition.method, condition.scale_fitted)
      for row in self.rows
    )


@dataclasses.dataclass(frozen=True)
class Step:
  """A part of an evaluation, done as a whole or not at all.

  Attributes:
    name: shown while it runs.
    tokens: that it reads, as a measure of its work.
    done: whether the record already has its results.
    run: does it, and adds its results to the record.
  """

  name: str
  tokens: int
  done: bool
  run: Callable[[], None]


class Inputs:
  """The samples and documents of a suite, the same for every model."""

  def __init__(self, suite: Suite, lm: interface.LM, material: Material):
    """Draws all samples, so that mistakes show before hours of work.

    Args:
      suite: what to evaluate.
      lm: gives the tokenizer and the trained length, the same for all models.
      material: text.

    Raises:
      ValueError: the text is too short, a task does not fit a length, or two
        factors are of one length.
    """
    self.suite = suite
    self._lm, self._material = lm, material
    self._bos: tuple[int, ...] = ()
    if suite.begin_with_bos:
      if lm.bos_id is None:
        raise ValueError(
          "Suite.begin_with_bos needs a tokenizer with BOS, got one without. "
          "Set it to False."
        )
      self._bos = (lm.bos_id,)
    self.lengths = [round(f * lm.context_tokens) for f in suite.factors]
    if len(set(self.lengths)) < len(self.lengths):
      raise ValueError(
        "Suite.factors must test lengths that differ, got "
        f"{suite.factors} of {lm.context_tokens} tokens, which are "
        f"{self.lengths}. Leave out a factor."
      )
    order = self._order()
    self._samples = {task.name: task.draw(order) for task in suite.tasks}
    self.fit_documents: list[list[int]] = []
    if suite.fit_factor is not None:
      tokens = round(suite.fit_factor * lm.context_tokens)
      self.fit_documents = [
        *self._fit_excerpts(tokens),
        *self._needle_documents(tokens),
      ]

  def tokens(self, task: Task, length: int) -> int:
    """Returns about how many tokens a task reads at a length."""
    return length * len(self._samples[task.name][length])

  def evaluate(
    self,
    task: Task,
    length: int,
    lm: interface.LM,
    condition: interface.Condition,
  ) -> list[interface.Result]:
    """Returns the results of one task at one length."""
    return task.evaluate(lm, self._samples[task.name][length], condition)

  def _order(self) -> Order:
    suite = self.suite
    return Order(
      encode=self._lm.encode,
      decode=self._lm.decode,
      documents=self._material.test,
      lengths=tuple(self.lengths),
      counts=suite.samples,
      excerpts=suite.excerpts,
      seed=suite.seed,
      prefix=self._bos,
      needles=suite.needles,
      max_new_tokens=suite.max_new_tokens,
    )

  def _fit_excerpts(self, tokens: int) -> list[list[int]]:
    suite = self.suite
    encoded = map(self._lm.encode, self._material.fit)
    try:
      found = perplexity.excerpts(
        encoded, tokens - len(self._bos), suite.fit_excerpts, suite.seed
      )
    except ValueError as error:
      raise ValueError(f"Suite.fit_excerpts: {error}") from error
    return [[*self._bos, *run] for run in found]

  def _needle_documents(self, tokens: int) -> list[list[int]]:
    suite, lm = self.suite, self._lm
    if not suite.fit_needle_documents:
      return []
    return list(
      needle_documents.training_documents(
        needle_documents.NeedleDocuments(needles=suite.needles),
        lm.encode,
        list(self._material.fit),
        tokens=tokens,
        count=suite.fit_needle_documents,
        seed=suite.seed + 1,
        eos_id=lm.eos_id,
      )
    )


def steps(
  inputs: Inputs,
  model: str,
  methods: Sequence[str],
  variant: Variant,
  record: Record,
) -> list[Step]:
  """Returns the steps that evaluate a model, in the order to run them.

  Args:
    inputs: of the suite.
    model: its name in results.
    methods: those of the suite that apply to the model.
    variant: gives the model for a method and a factor.
    record: steps with results in it are not done again.

  Raises:
    ValueError: a method does not apply to the model.
  """
  suite = inputs.suite
  found = []
  for method in methods:
    variant(method, 1.0)
    if suite.fit_factor is not None:
      found.append(_fit(inputs, model, method, variant, record))
  for factor, length in zip(suite.factors, inputs.lengths, strict=True):
    for method in methods:
      condition = interface.Condition(model, method, seed=suite.seed)
      conditions = [condition]
      # At the trained length the fitted scale is 1, and changes no number.
      if suite.fit_factor is not None and factor != 1:
        conditions.append(dataclasses.replace(condition, scale_fitted=True))
      found += [
        _evaluation(inputs, task, factor, length, variant, condition, record)
        for condition in conditions
        for task in suite.tasks
      ]
  return found


def _fit(inputs, model, method, variant, record):
  suite, documents = inputs.suite, inputs.fit_documents
  fits = record.fits.setdefault(model, {})

  def run():
    fits[method] = logit_scale.fit(
      variant(method, suite.fit_factor),
      documents,
      suite.fit_factor,
      evaluations=suite.fit_evaluations,
    )

  return Step(
    name=f"{model} by {method}: softmax scale",
    tokens=suite.fit_evaluations * sum(map(len, documents)),
    done=method in fits,
    run=run,
  )


def _evaluation(inputs, task, factor, length, variant, condition, record):
  model, method = condition.model, condition.method

  def run():
    lm = variant(method, factor)
    if condition.scale_fitted:
      c = record.fits[model][method].c
      scale = lm.logit_scale_at(lm.context_tokens)
      scale *= logit_scale.scale_at(c, factor)
    else:
      scale = lm.logit_scale_at(length)
    asked = dataclasses.replace(condition, logit_scale=scale)
    record.rows += inputs.evaluate(task, length, lm, asked)

  scaled = ", scaled" if condition.scale_fitted else ""
  return Step(
    name=f"{model} by {method} at {factor:g}x{scaled}: {task.name}",
    tokens=inputs.tokens(task, length),
    done=record.holds(task.name, length, condition),
    run=run,
  )
