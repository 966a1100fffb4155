"""The claims for dropping positions, checked against the scores of a run."""

from collections.abc import Sequence
import math
from typing import NamedTuple

from drope_jax.analysis import methods as methods_lib
from drope_jax.analysis import paired, palette, runs
from drope_jax.analysis.roles import Roles
from drope_jax.evals import intervals

RECOVERED = 0.01
"""Relative increase of the loss at the trained context that is accepted."""

FAR_LOSS = 0.05
"""Accepted relative increase of the far loss over the best scaling's."""

RETRIEVAL_FACTORS = (4.0, 8.0)
"""Length factors at which retrieval is compared, if it was measured."""

SHOWN, OPEN, NOT_SHOWN = "shown", "not told apart", "not shown"


class Verdict(NamedTuple):
  """Whether a claim holds for a model.

  Attributes:
    model: name of the model.
    verdict: `SHOWN`, `OPEN` or `NOT_SHOWN`.
    evidence: the numbers that decide.
    fact: (label, number, what to compare it with), each a few words.
  """

  model: str
  verdict: str
  evidence: str
  fact: tuple[str, str, str]


class Claim(NamedTuple):
  """A claim, with a verdict for each dropped model.

  Attributes:
    text: a sentence.
    verdicts: one for each model with the needed scores.
  """

  text: str
  verdicts: Sequence[Verdict]


def verdicts(scores: runs.Scores, roles: Roles) -> list[Claim]:
  """Returns the claims that the scores can decide, with their verdicts.

  Two models are compared on the same questions and sequences. The interval of
  their paired difference decides; if it does not, the verdict is `OPEN`. If
  both have a fitted softmax scale, they are compared with it; otherwise each
  has the scale of its checkpoint.

  Args:
    scores: from `runs.scores`.
    roles: of the models; without a base or a dropped model there are no claims.
  """
  if roles.base is None or not roles.dropped:
    return []
  tasks = dict.fromkeys(c.task for c in scores if c.metric == "accuracy")
  claims = [_recovered(scores, roles)]
  claims += [_beyond(scores, roles, task) for task in tasks]
  for task in tasks:
    for factor in _far(scores, task):
      claims.append(_ahead(scores, roles, task, factor))
  claims.append(_far_loss(scores, roles))
  return [claim for claim in claims if claim.verdicts]


def _recovered(scores, roles):
  reference = roles.reference
  cell = runs.Cell("perplexity", "loss", reference, "model", 1.0, False)
  before, judged = scores.get(cell), []
  for model in roles.dropped:
    after = scores.get(cell._replace(model=model))
    if before and after:
      verdict, evidence = _at_most(after, before, RECOVERED)
      change = _change(after, before)
      judged.append(
        Verdict(
          model,
          verdict,
          f"{after.value:.3f} against {before.value:.3f} nats, {evidence}",
          (f"loss at 1×, against {reference}", change, "0% is recovered"),
        )
      )
  text = (
    "Within the trained context, the loss is at most "
    f"{RECOVERED:.0%} above that of {reference}."
  )
  return Claim(text, judged)


def _beyond(scores, roles, task):
  base, judged = roles.base, []
  for model in roles.dropped:
    pairs = {}
    for cell in scores:
      if cell[:4] == (task, "accuracy", model, "model") and cell.factor > 1:
        for rival, difference in _against(scores, cell, base, ("model",)):
          pairs[cell.factor] = scores[rival], difference, rival.scale_fitted
    if not pairs:
      continue
    by_verdict: dict[str, list[float]] = {}
    for factor, (_, difference, _) in pairs.items():
      by_verdict.setdefault(_shown(difference), []).append(factor)
    # It is lost at one length, or shown at one, or open at all.
    verdict = next(v for v in (NOT_SHOWN, SHOWN, OPEN) if v in by_verdict)
    farthest = max if verdict == SHOWN else min
    factor = farthest(by_verdict[verdict])
    rival, difference, fitted = pairs[factor]
    own = scores[runs.Cell(task, "accuracy", model, "model", factor, fitted)]
    judged.append(
      Verdict(
        model,
        verdict,
        f"at {factor:g}×: {_percent(own)} against {_percent(rival)}, "
        f"{_evidence(difference)}",
        (
          f"{_spelt(task)} answered at {factor:g}×",
          f"{own.value:.0%}",
          f"{base}: {rival.value:.0%}",
        ),
      )
    )
  text = f"It answers {_spelt(task)} questions where {base} fails."
  return Claim(text, judged)


def _far(scores, task):
  """Returns the factors to compare retrieval at: the usual ones or the last."""
  factors = {
    c.factor
    for c in scores
    if (c.task, c.metric) == (task, "accuracy") and c.factor > 1
  }
  named = [f for f in RETRIEVAL_FACTORS if f in factors]
  return named or sorted(factors)[-1:]


def _ahead(scores, roles, task, factor):
  judged = []
  for model in roles.dropped:
    cell = runs.Cell(task, "accuracy", model, "model", factor, False)
    against = _against(
      scores, cell, roles.base, ("model", *methods_lib.SCALINGS)
    )
    if not against:
      continue
    # Better than all: the comparison with each must be decided.
    each = [_shown(difference) for _, difference in against]
    verdict = next(v for v in (NOT_SHOWN, OPEN, SHOWN) if v in each)
    rival, difference = _best(against, lambda cell: -scores[cell].value)
    own = scores[cell._replace(scale_fitted=rival.scale_fitted)]
    name = palette.label(rival.model, rival.method)
    judged.append(
      Verdict(
        model,
        verdict,
        f"{_percent(own)} against {_percent(scores[rival])} of {name}, the "
        f"best of these, {_evidence(difference)}",
        (
          f"{_spelt(task)} answered at {factor:g}×",
          f"{own.value:.0%}",
          f"{name}: {scores[rival].value:.0%}",
        ),
      )
    )
  text = (
    f"At {factor:g}× it answers more {_spelt(task)} questions than "
    f"{roles.base}, with or without a scaling."
  )
  return Claim(text, judged)


def _far_loss(scores, roles):
  factors = {c.factor for c in scores if c.metric == "tail_loss"}
  if not factors:
    return Claim("", [])
  factor, judged, name = max(factors), [], None
  for model in roles.dropped:
    cell = runs.Cell("perplexity", "tail_loss", model, "model", factor, False)
    against = _against(scores, cell, roles.base, tuple(methods_lib.SCALINGS))
    if not against:
      continue
    rival, _ = _best(against, lambda cell: scores[cell].value)
    own = scores[cell._replace(scale_fitted=rival.scale_fitted)]
    name = palette.label(rival.model, rival.method)
    verdict, evidence = _at_most(own, scores[rival], FAR_LOSS)
    change = _change(own, scores[rival])
    judged.append(
      Verdict(
        model,
        verdict,
        f"{own.value:.3f} against {scores[rival].value:.3f} nats, {evidence}",
        (f"loss at {factor:g}×, against {name}", change, "the best scaling"),
      )
    )
  text = (
    f"At {factor:g}× the loss is at most {FAR_LOSS:.0%} above that of {name}, "
    "the best scaling."
  )
  return Claim(text, judged)


def _against(scores, cell, base, methods):
  """Returns (rival's cell, paired difference) for each method of the base.

  All have fitted scales if the cell and every rival have one; otherwise none.
  """

  def rivals(fitted: bool) -> list[runs.Cell]:
    own = cell._replace(scale_fitted=fitted, model=base)
    named = [own._replace(method=method) for method in methods]
    return [rival for rival in named if rival in scores]

  # The trained length has no fitted scale, since it would be 1.
  for fitted in (True, False):
    own, found = cell._replace(scale_fitted=fitted), rivals(fitted)
    is_every = len(found) >= len(rivals(fitted=False))
    if own in scores and found and is_every:
      return [
        (rival, paired.difference(scores[own], scores[rival]))
        for rival in found
      ]
  return []


def _best(against, key):
  """Returns the pair of `_against` with the least key; NaN counts as most."""
  return min(against, key=lambda pair: (math.isnan(key(pair[0])), key(pair[0])))


def _at_most(own, other, tolerance):
  """Returns whether a loss exceeds another by at most `tolerance`, and why."""
  change = _change(own, other)
  apart = paired.difference(own, other)
  if not math.isfinite(own.value):
    return NOT_SHOWN, "its loss is not a number"
  if not math.isfinite(other.value):
    return OPEN, "the other loss is not a number"
  if apart is None:
    return OPEN, f"{change}; they share no sequences"
  if apart.low is None:
    return OPEN, (
      f"{change}; {apart.count} sequences are too few to decide, "
      f"{intervals.MIN_VALUES} are needed"
    )
  low, high = apart.low / other.value, apart.high / other.value
  verdict = SHOWN if high <= tolerance else OPEN
  if low > tolerance:
    verdict = NOT_SHOWN
  return verdict, f"{change} [{low:+.1%}, {high:+.1%}], {apart.count} sequences"


def _change(own, other):
  change = own.value / other.value - 1
  return f"{change:+.1%}" if math.isfinite(change) else "not a number"


def _spelt(task):
  return task.replace("_", "-")


def _shown(difference):
  if difference is None:
    return OPEN
  return {"ahead": SHOWN, "behind": NOT_SHOWN}.get(difference.verdict, OPEN)


def _percent(score):
  return f"{score.value:.0%}"


def _evidence(difference):
  if difference is None:
    return "not compared, because they share no questions"
  low, high = difference.low, difference.high
  interval = f"{100 * difference.value:+.0f} points"
  if low is not None:
    interval += f" [{100 * low:+.0f}, {100 * high:+.0f}]"
  return f"{interval}, {difference.count} questions"
