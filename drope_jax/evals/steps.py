"""The steps of a suite; the results of each are kept as soon as it is done.

Every method reads the same samples, once with the model's own softmax scale and
once with a scale that is fitted for the method on other text. To fit it for one
method alone would not be a fair comparison. Two methods or scales that come to
the same share one pass.
"""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
from typing import Protocol

from drope_jax.evals import (
  interface,
  logit_scale,
  needle_documents,
  perplexity,
  remembering,
)
from drope_jax.evals.record import Record
from drope_jax.evals.suite import Material, Suite
from drope_jax.evals.task import Order, Task

Variant = Callable[[str, float], interface.LM | None]
"""From (method, factor) to the model under that method at that factor.

Where two methods are the same model, it is the same object. None: by that
method the model cannot read so long a text.
"""


@dataclasses.dataclass(frozen=True)
class Step:
  """A part of an evaluation, done as a whole or not at all.

  Attributes:
    name: shown while it runs.
    tokens: that it reads, as a measure of its work.
    done: whether the record already has its results.
    run: does it, and adds its results to the record.
    needs: the name of a step to be done before; None: none.
  """

  name: str
  tokens: int
  done: bool
  run: "Run"
  needs: str | None = None


class Run(Protocol):
  """Does a step."""

  def __call__(
    self, on_read: remembering.OnRead = lambda tokens: None
  ) -> None: ...


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

  @property
  def digests(self) -> dict[str, dict[str, str]]:
    """SHA-256 of the samples by task and length, all of them together."""
    return self._of_samples(_digest)

  @property
  def hashes(self) -> dict[str, dict[str, list[str]]]:
    """The first 16 digits of each sample's own SHA-256, by task and length."""
    return self._of_samples(
      lambda samples: [_digest(sample)[:16] for sample in samples]
    )

  def _of_samples(self, function):
    return {
      task: {
        str(length): function(samples) for length, samples in by_length.items()
      }
      for task, by_length in self._samples.items()
    }

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
      context_tokens=self._lm.context_tokens,
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
    found = needle_documents.training_documents(
      needle_documents.NeedleDocuments(needles=suite.needles),
      lm.encode,
      list(self._material.fit),
      tokens=tokens - len(self._bos),
      count=suite.fit_needle_documents,
      seed=suite.seed + 1,
      eos_id=lm.eos_id,
    )
    return [[*self._bos, *document] for document in found]


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
  found, fitted = [], set()
  for method in methods:
    variant(method, 1.0)
    if method == "crop" and (suite.scale_by_own_length or suite.scale_by_query):
      continue  # No text or query of it is beyond the trained length.
    if suite.fit_factor is not None and variant(method, suite.fit_factor):
      found.append(_fit(inputs, model, method, variant, record))
      fitted.add(method)
  recent = remembering.Recent(record.memory)
  for factor, length in zip(suite.factors, inputs.lengths, strict=True):
    for method in methods:
      if variant(method, factor) is None:
        continue
      condition = interface.Condition(model, method, seed=suite.seed)
      conditions = [condition]
      # At the trained length the fitted scale is 1, and changes no number.
      if method in fitted and factor != 1:
        conditions.append(dataclasses.replace(condition, scale_fitted=True))
      found += [
        _evaluation(
          inputs, task, factor, length, variant, condition, record, recent
        )
        for condition in conditions
        for task in suite.tasks
      ]
  return found


def share(ahead: Sequence[Step], number: int, of: int) -> list[Step]:
  """Returns one of several shares of the steps, of about as many tokens each.

  All shares together are all steps. A fit is in each share that needs it.

  Args:
    ahead: all steps, in order.
    number: of the share, from 1.
    of: how many shares there are.
  """
  fits = {step.needs for step in ahead}
  loads = [0] * of
  own: set[str | None] = set()
  for step in sorted(ahead, key=lambda step: -step.tokens):
    if step.name not in fits:
      least = loads.index(min(loads))
      loads[least] += step.tokens
      if least == number - 1:
        own |= {step.name, step.needs}
  return [step for step in ahead if step.name in own]


def _fit(inputs, model, method, variant, record):
  suite, documents = inputs.suite, inputs.fit_documents
  fits = record.fits.setdefault(model, {})

  def run(on_read=lambda tokens: None):
    about = {"step": "fit", "model": model, "method": method}
    lm = variant(method, suite.fit_factor)
    assert lm is not None  # Else there is no such step.
    fits[method] = logit_scale.fit(
      remembering.Remembering(lm, record.memory, about, on_read),
      documents,
      suite.fit_factor,
      evaluations=suite.fit_evaluations,
      by_query=suite.scale_by_query,
    )

  return Step(
    name=_fit_name(model, method),
    tokens=suite.fit_evaluations * sum(map(len, documents)),
    done=method in fits,
    run=run,
  )


def _evaluation(
  inputs, task, factor, length, variant, condition, record, recent
):
  model, method = condition.model, condition.method

  def run(on_read=lambda tokens: None):
    lm = variant(method, factor)
    assert lm is not None  # Else there is no such step.
    if condition.scale_fitted:
      c = record.fits[model][method].c
      scale = lm.logit_scale_at(lm.context_tokens)
      scale *= logit_scale.scale_at(c, factor)
    else:
      scale = lm.logit_scale_at(length)
    asked = dataclasses.replace(condition, logit_scale=scale)
    about = {"task": task.name, "length": length, "factor": factor}
    about |= {"model": model, "method": method}
    reader = remembering.Remembering(
      lm,
      recent.of(method, length, condition.scale_fitted),
      about,
      on_read,
      keeps_scale=inputs.suite.scale_by_own_length,
    )
    by_query = inputs.suite.scale_by_query
    sloped = by_query or inputs.suite.scale_by_own_length
    if sloped and condition.scale_fitted:
      c = record.fits[model][method].c
      reader = reader.with_logit_slope(c, by_query=by_query)
    record.rows += same_pass(lm, scale) or inputs.evaluate(
      task, length, reader, asked
    )

  def same_pass(lm, scale):
    """Returns the results of a step that read with the same model and scale."""
    one_form = not inputs.suite.scale_by_query or (
      scale == lm.logit_scale_at(lm.context_tokens)
    )
    found: dict[tuple[str, bool], list[interface.Result]] = {}
    for row in record.of(task.name, length, model):
      if (
        row.logit_scale == scale
        and (row.method == method or variant(row.method, factor) is lm)
        and (one_form or row.scale_fitted == condition.scale_fitted)
      ):
        found.setdefault((row.method, row.scale_fitted), []).append(row)
    return [
      dataclasses.replace(
        row, method=method, scale_fitted=condition.scale_fitted
      )
      for row in next(iter(found.values()), ())
    ]

  scaled = ", scaled" if condition.scale_fitted else ""
  return Step(
    name=f"{model} by {method} at {factor:g}x{scaled}: {task.name}",
    tokens=inputs.tokens(task, length),
    done=record.holds(task.name, length, condition),
    run=run,
    needs=_fit_name(model, method) if condition.scale_fitted else None,
  )


def _digest(samples) -> str:
  return hashlib.sha256(repr(samples).encode()).hexdigest()


def _fit_name(model: str, method: str) -> str:
  return f"{model} by {method}: softmax scale"
