"""Evaluates checkpoints: each by every method that can read it."""

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

  A model without plain RoPE is read by "model" and "crop" alone.

  Args:
    suite: what to evaluate.
    lms: by the names that they have in the results.
    material: text.
    record: where the steps add what they find; what is in it is not done again.
    as_they_are: names of models of plain RoPE that no scaling is applied to.

  Raises:
    ValueError: a method fits none of the models, or they cannot read the same
      samples.
  """
  _require_same_samples(lms)
  methods = {
    name: tuple(
      method
      for method in suite.methods
      if method in _ANY or (_is_rope(lm) and name not in as_they_are)
    )
    for name, lm in lms.items()
  }
  for method in suite.methods:
    readers = [lms[n] for n, fitting in methods.items() if method in fitting]
    # Refuses a method that is unknown, or that no model can be read by.
    variants([*readers, *lms.values()][0])(method, 1.0)
  inputs = steps.Inputs(suite, next(iter(lms.values())), material)
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
  """Returns the function from (method, factor) to the model read that way."""

  def variant(method: str, factor: float) -> interface.LM:
    if method == "model":
      return lm
    if method == "crop":
      return cropped.Cropped(lm)
    scheme = scaling.scaled(
      lm.config.positional, method, factor, lm.context_tokens
    )
    return lm.with_positions(scheme)

  return variant


def _is_rope(lm: CheckpointLM) -> bool:
  return isinstance(lm.config.positional, Rope)


def _require_same_samples(lms: Mapping[str, CheckpointLM]) -> None:
  """Raises ValueError where one sample would be of other lengths or ids."""
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
