"""Evaluates checkpoints, each with every method that fits it."""

from collections.abc import Collection, Mapping

from drope_jax.data import corpus
from drope_jax.evals import cropped, interface, steps
from drope_jax.evals import suite as suites
from drope_jax.inference.lm import CheckpointLM
from drope_jax.positional import Rope, scaling

_ANY = ("model", "crop")
"""Methods that need no RoPE."""


def plan(
  suite: suites.Suite,
  lms: Mapping[str, CheckpointLM],
  material: suites.Material,
  record: steps.Record,
  as_they_are: Collection[str] = (),
) -> list[steps.Step]:
  """Returns the steps that evaluate several models on the same samples.

  A model without plain RoPE is evaluated only with "model" and "crop".

  Args:
    suite: what to evaluate.
    lms: models by their names in the results.
    material: text.
    record: results are added to it; those that it has are not computed again.
    as_they_are: names of models that are evaluated only with "model".

  Raises:
    ValueError: there is no model, a method fits none of them, or their samples
      would differ, from each other's or from those of the record.
  """
  if not lms:
    raise ValueError(
      "An evaluation needs at least one model, got none. Give its name and the "
      "model."
    )
  _require_same_samples(lms)
  methods = {
    name: tuple(
      method
      for method in suite.methods
      if method == "model"
      or (name not in as_they_are and (method in _ANY or _is_rope(lm)))
    )
    for name, lm in lms.items()
  }
  for method in suite.methods:
    fitting = [lms[name] for name, own in methods.items() if method in own]
    # Raises if a method is unknown, or fits no model.
    variants([*fitting, *lms.values()][0])(method, 1.0)
  inputs = steps.Inputs(suite, next(iter(lms.values())), material)
  record.begin(inputs.digests)
  return [
    step
    for name, lm in lms.items()
    for step in steps.steps(inputs, name, methods[name], variants(lm), record)
  ]


def packaged() -> suites.Material:
  """Returns the held-out splits of the packaged corpus."""
  return suites.Material(
    test=list(corpus.documents("test")), fit=list(corpus.documents("fit"))
  )


def variants(lm: CheckpointLM) -> steps.Variant:
  """Returns a function from (method, factor) to the model with that method.

  At a factor of 1 it is the model itself: nothing is cropped or scaled there.
  """

  def variant(method: str, factor: float) -> interface.LM:
    if method == "model":
      return lm
    if method == "crop":
      return lm if factor == 1 else cropped.Cropped(lm)
    scheme = scaling.scaled(
      lm.config.positional, method, factor, lm.context_tokens
    )
    same = factor == 1 or scheme == lm.config.positional
    return lm if same else lm.with_positions(scheme)

  return variant


def _is_rope(lm: CheckpointLM) -> bool:
  return isinstance(lm.config.positional, Rope)


def _require_same_samples(lms: Mapping[str, CheckpointLM]) -> None:
  """Raises ValueError if samples would differ between the models."""
  for what, value in (
    ("context_tokens", lambda lm: str(lm.context_tokens)),
    ("tokenizer", lambda lm: f"SHA-256 {lm.tokenizer.fingerprint[:12]}"),
  ):
    found = {name: value(lm) for name, lm in lms.items()}
    if len(set(found.values())) > 1:
      raise ValueError(
        f"Checkpoints need the same {what} to be compared on the same samples, "
        f"got {', '.join(f'{name}: {got}' for name, got in found.items())}. "
        "Evaluate them one by one."
      )
