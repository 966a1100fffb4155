"""The scores of a model again and again, as it is trained."""

import dataclasses
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from drope_jax.checkpoint.model import Model
from drope_jax.data import inputs
from drope_jax.evals import periodic, steps
from drope_jax.evals.record import Record
from drope_jax.inference import evaluation
from drope_jax.inference.lm import CheckpointLM


class Measurement:
  """A function from a model's parameters to its scores.

  The samples are drawn once, and are the same each time. In a run of several
  processes each one calls it, and returns the same scores.
  """

  def __init__(
    self,
    wanted: periodic.Periodic,
    model: Model,
    mesh: jax.sharding.Mesh,
    dtype: str,
  ):
    """Reads the text and draws the samples.

    Args:
      wanted: the suite and its text.
      model: with a tokenizer; its parameters are not read.
      mesh: of the parameters.
      dtype: of the computations.

    Raises:
      FileNotFoundError, ValueError: the text cannot be read, or is too short;
        its two parts overlap; a length or method cannot be used; or no method
        that fits the model gives the best score.
    """
    test, fit = (
      inputs.expand(names)[0] for names in (wanted.text, wanted.fit_text)
    )
    self._dtype = dtype
    self._model = dataclasses.replace(model, params={})
    self._mesh = mesh if mesh.size > 1 else None
    lm = self._lm({})
    self._wanted = _fitting(wanted, lm)
    self._inputs = steps.Inputs(
      self._wanted.suite, lm, evaluation.material(test, fit)
    )
    self._steps(lm, Record())  # Refuses a method that does not apply.

  def __call__(self, params: Any) -> dict[str, float]:
    """Returns the scores of parameters, by their names in `periodic`.

    Also returned are "evals_s", the seconds it took, and "evals_left_out", the
    steps of the suite that the budget left no time for.
    """
    began_s = time.monotonic()
    record, budget = Record(), self._wanted.budget_minutes
    ahead = self._steps(self._lm(params), record)
    left_out = 0
    for step in ahead:
      passed_s = time.monotonic() - began_s
      if budget is not None and _in_all(passed_s >= 60 * budget):
        left_out += 1
      else:
        step.run()
    suite = self._wanted.suite
    factor_of = dict(zip(self._inputs.lengths, suite.factors, strict=True))
    found = {
      periodic.score_name(
        row.task,
        row.metric,
        factor_of[round(row.factor * row.context_tokens)],
        row.method,
        row.scale_fitted,
      ): row.value
      for row in record.rows
    }
    passed_s = time.monotonic() - began_s
    return {**found, "evals_s": passed_s, "evals_left_out": left_out}

  def _lm(self, params: Any) -> CheckpointLM:
    model = dataclasses.replace(self._model, params=params)
    return CheckpointLM.of(model, self._dtype, mesh=self._mesh)

  def _steps(self, lm: CheckpointLM, record: Record) -> list[steps.Step]:
    return steps.steps(
      self._inputs,
      "model",
      self._wanted.suite.methods,
      evaluation.variants(lm),
      record,
    )


def _fitting(wanted: periodic.Periodic, lm: CheckpointLM) -> periodic.Periodic:
  """Returns evals with the methods that fit a model.

  Raises:
    ValueError: there are none, or the best score is of another.
  """
  if methods := evaluation.methods_of(wanted.suite, lm):
    suite = dataclasses.replace(wanted.suite, methods=methods)
    scores = dict(dataclasses.replace(wanted, suite=suite, best=None).scores())
    if wanted.best is None or wanted.best in scores:
      return dataclasses.replace(wanted, suite=suite)
  best = "" if wanted.best is None else f" and best {wanted.best}"
  raise ValueError(
    "Evals need a method that fits the model, of which the best score is, got "
    f"{', '.join(wanted.suite.methods)}{best} for "
    f"{type(lm.config.positional).__name__}. Name others, such as model."
  )


def _in_all(fact: bool) -> bool:
  """Returns what the first process found, as all must take the same steps."""
  return bool(multihost_utils.broadcast_one_to_all(np.array(fact)))
