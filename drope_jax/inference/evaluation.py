"""Evaluates checkpoints, each with every method that fits it."""

from collections.abc import Collection, Mapping, Sequence

from drope_jax.data import corpus, sources
from drope_jax.evals import cropped, interface, overlap, steps
from drope_jax.evals import suite as suites
from drope_jax.evals.record import Record
from drope_jax.inference.lm import CheckpointLM
from drope_jax.positional import LearnedAbsolute, Rope, Scheme, scaling

_ANY = ("model", "crop")
"""Methods that need no RoPE."""

_DYNAMIC = "dynamic_"
"""Begins the name of a scaling by each text's own length."""

_METHODS = (
  *_ANY,
  *scaling.METHODS,
  *(_DYNAMIC + name for name in scaling.STRETCHES),
)


def plan(
  suite: suites.Suite,
  lms: Mapping[str, CheckpointLM],
  material: suites.Material,
  record: Record,
  as_they_are: Collection[str] = (),
  must_fit: Collection[str] = (),
) -> list[steps.Step]:
  """Returns the steps that evaluate several models on the same samples.

  A model without plain RoPE is evaluated only with "model" and "crop"; one with
  learned positions with "pi" too, and with "model" up to the end of its table.

  Args:
    suite: what to evaluate.
    lms: models by their names in the results.
    material: text.
    record: results are added to it; those that it has are not computed again.
    as_they_are: names of models that are evaluated only with "model".
    must_fit: methods that must fit one of the models.

  Raises:
    ValueError: there is no model, a method is unknown, no method fits or one of
      `must_fit` does not, a model can read no length by any method, or their
      samples would differ, from each other's or from those of the record.
  """
  if not lms:
    raise ValueError(
      "An evaluation needs at least one model, got none. Give its name and the "
      "model."
    )
  _require_same_samples(lms)
  methods = {
    name: ("model",) if name in as_they_are else methods_of(suite, lm)
    for name, lm in lms.items()
  }
  if not any(methods.values()):
    must_fit = suite.methods
  elif left_out := [name for name, own in methods.items() if not own]:
    raise ValueError(
      f"An evaluation needs a method that fits, got {', '.join(suite.methods)} "
      f"for {left_out[0]}, which has no plain RoPE. Add model, or leave the "
      "checkpoint out."
    )
  for method in suite.methods:
    tried = [lms[name] for name, own in methods.items() if method in own]
    if not tried:
      (lm, *_) = lms.values()
      tried = [lm if method in must_fit else lm.with_positions(Rope())]
    variants(tried[0])(method, 1.0)  # Raises if it is unknown, or cannot fit.
  inputs = steps.Inputs(suite, next(iter(lms.values())), material)
  record.begin(inputs.digests)
  record.hashes = inputs.hashes
  found = []
  for name, lm in lms.items():
    own = steps.steps(inputs, name, methods[name], variants(lm), record)
    if not own:
      lm.config.positional.at(min(inputs.lengths))  # Says what it can read.
    found += own
  return found


def packaged() -> suites.Material:
  """Returns the held-out splits of the packaged corpus."""
  return suites.Material(
    test=list(corpus.documents("test")), fit=list(corpus.documents("fit"))
  )


def material(
  test: Sequence[sources.Source], fit: Sequence[sources.Source]
) -> suites.Material:
  """Returns the text of sources.

  Raises:
    FileNotFoundError, ValueError: a source cannot be read, or text to test on
      overlaps text to fit on.
  """
  of_test, of_fit = (
    [
      overlap.Document(f"{source.name} (document {number})", text)
      for source in found
      for number, text in enumerate(sources.texts([source]), 1)
    ]
    for found in (test, fit)
  )
  overlap.require_disjoint(of_test, of_fit)
  return suites.Material(
    test=[document.text for document in of_test],
    fit=[document.text for document in of_fit],
  )


def variants(lm: CheckpointLM) -> steps.Variant:
  """Returns a function from (method, factor) to the model with that method.

  At a factor of 1 it is the model itself: nothing is cropped or scaled there.
  """

  def variant(method: str, factor: float) -> interface.LM | None:
    if method == "model":
      most = lm.config.positional.most_tokens
      ends = most is not None and round(factor * lm.context_tokens) > most
      return None if ends else lm
    if method == "crop":
      return lm if factor == 1 else cropped.Cropped(lm)
    scheme = _scheme(lm, method, factor)
    same = factor == 1 or scheme == lm.config.positional
    return lm if same else lm.with_positions(scheme)

  return variant


def _scheme(lm: CheckpointLM, method: str, factor: float) -> Scheme:
  _require_known(method)
  own, trained = lm.config.positional, lm.context_tokens
  if isinstance(own, LearnedAbsolute) and method == "pi":
    return own.stretched(factor)
  rule = method.removeprefix(_DYNAMIC)
  if rule == method:
    return scaling.scaled(own, method, factor, trained)
  # The factor of a text is then its length / trained length.
  grown = scaling.scaled(own, rule, 1.0, trained)
  assert isinstance(  # Each of `STRETCHES` is one of them.
    grown, scaling.PositionInterpolation | scaling.NtkAware | scaling.Yarn
  )
  return scaling.Dynamic(grown, trained)


def methods_of(suite: suites.Suite, lm: CheckpointLM) -> tuple[str, ...]:
  """Returns the methods of the suite that fit a model.

  Raises:
    ValueError: the suite has an unknown method.
  """
  for method in suite.methods:
    _require_known(method)
  own = lm.config.positional
  is_learned = isinstance(own, LearnedAbsolute)
  return tuple(
    method
    for method in suite.methods
    if method in _ANY
    or isinstance(own, Rope)
    or (is_learned and method == "pi")
  )


def _require_known(method: str) -> None:
  if method not in _METHODS:
    raise ValueError(
      f"A position method must be one of {', '.join(_METHODS)}, got "
      f"{method!r}. Name one of these."
    )


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
