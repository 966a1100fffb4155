"""What dropping positions is to achieve, held against the scores of a run."""

from collections.abc import Sequence
from typing import NamedTuple

from drope_jax.analysis import paired, palette, runs
from drope_jax.analysis.roles import Roles
from drope_jax.evals import intervals

RECOVERED = 0.01
"""Relative rise of the loss at the trained context that counts as none."""

FAR_LOSS = 0.05
"""Relative rise of the loss far out, above the best scaling's, to be within."""

RETRIEVAL_FACTORS = (4.0, 8.0)
"""Length factors at which retrieval is compared, where it was measured."""

SHOWN, OPEN, NOT_SHOWN = "shown", "not told apart", "not shown"

_SCALINGS = ("pi", "ntk", "yarn")


class Verdict(NamedTuple):
  """Of a model on a claim.

  Attributes:
    model: its name.
    verdict: `SHOWN`, `OPEN` or `NOT_SHOWN`.
    evidence: the figures that decide.
    fact: (label, figure, what it is to be compared with), in a few words.
  """

  model: str
  verdict: str
  evidence: str
  fact: tuple[str, str, str]


class Claim(NamedTuple):
  """A claim, and how each dropped model stands to it.

  Attributes:
    text: a sentence.
    verdicts: one for each model that it was measured on.
  """

  text: str
  verdicts: Sequence[Verdict]


def verdicts(scores: runs.Scores, roles: Roles) -> list[Claim]:
  """Returns the claims that the scores can judge, each with its verdicts.

  Two are compared on the same questions and texts, by the interval of their
  paired difference; where it leaves both sides open, so does the verdict. They
  are compared under one treatment: with a softmax scale fitted for each where
  both have one, otherwise each with the scale that its checkpoint has.

  Args:
    scores: from `runs.scores`.
    roles: of the scores' models; with no base or nothing dropped, there is no
      claim.
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
  before, found = scores.get(cell), []
  for model in roles.dropped:
    after = scores.get(cell._replace(model=model))
    if before and after:
      verdict, said = _at_most(after, before, RECOVERED)
      change = f"{after.value / before.value - 1:+.1%}"
      found.append(
        Verdict(
          model,
          verdict,
          f"{after.value:.3f} against {before.value:.3f} nats, {said}",
          (f"loss at 1×, against {reference}", change, "0% is recovered"),
        )
      )
  text = (
    "Within the trained context, the loss is at most "
    f"{RECOVERED:.0%} above that of {reference}."
  )
  return Claim(text, found)


def _beyond(scores, roles, task):
  base, found = roles.base, []
  for model in roles.dropped:
    pairs = {}
    for cell in scores:
      if cell[:4] == (task, "accuracy", model, "model") and cell.factor > 1:
        for rival, difference in _against(scores, cell, base, ("model",)):
          pairs[cell.factor] = scores[rival], difference, rival.scale_fitted
    if not pairs:
      continue
    ahead = [f for f, pair in pairs.items() if _shown(pair[1]) == SHOWN]
    factor = max(ahead, default=min(pairs))
    rival, difference, fitted = pairs[factor]
    own = scores[runs.Cell(task, "accuracy", model, "model", factor, fitted)]
    found.append(
      Verdict(
        model,
        _shown(difference),
        f"{'up to' if ahead else 'at'} {factor:g}×: {_percent(own)} against "
        f"{_percent(rival)}, {_said(difference)}",
        (
          f"{_spelt(task)} answered at {factor:g}×",
          f"{own.value:.0%}",
          f"{base}: {rival.value:.0%}",
        ),
      )
    )
  text = f"It answers {_spelt(task)} questions where {base} no longer does."
  return Claim(text, found)


def _far(scores, task):
  """The factors at which retrieval is compared: the named ones, or the last."""
  factors = {
    c.factor
    for c in scores
    if (c.task, c.metric) == (task, "accuracy") and c.factor > 1
  }
  named = [f for f in RETRIEVAL_FACTORS if f in factors]
  return named or sorted(factors)[-1:]


def _ahead(scores, roles, task, factor):
  found = []
  for model in roles.dropped:
    cell = runs.Cell(task, "accuracy", model, "model", factor, False)
    against = _against(scores, cell, roles.base, ("model", *_SCALINGS))
    if not against:
      continue
    # Better than every one: each has to be told apart by itself.
    each = [_shown(difference) for _, difference in against]
    verdict = next(v for v in (NOT_SHOWN, OPEN, SHOWN) if v in each)
    rival, difference = max(against, key=lambda pair: scores[pair[0]].value)
    own = scores[cell._replace(scale_fitted=rival.scale_fitted)]
    name = palette.label(rival.model, rival.method)
    found.append(
      Verdict(
        model,
        verdict,
        f"{_percent(own)} against {_percent(scores[rival])} of {name}, the "
        f"best of these, {_said(difference)}",
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
  return Claim(text, found)


def _far_loss(scores, roles):
  factors = {c.factor for c in scores if c.metric == "tail_loss"}
  if not factors:
    return Claim("", [])
  factor, found, name = max(factors), [], None
  for model in roles.dropped:
    cell = runs.Cell("perplexity", "tail_loss", model, "model", factor, False)
    against = _against(scores, cell, roles.base, _SCALINGS)
    if not against:
      continue
    rival, _ = min(against, key=lambda pair: scores[pair[0]].value)
    own = scores[cell._replace(scale_fitted=rival.scale_fitted)]
    name = palette.label(rival.model, rival.method)
    verdict, said = _at_most(own, scores[rival], FAR_LOSS)
    change = f"{own.value / scores[rival].value - 1:+.1%}"
    found.append(
      Verdict(
        model,
        verdict,
        f"{own.value:.3f} against {scores[rival].value:.3f} nats, {said}",
        (f"loss at {factor:g}×, against {name}", change, "the best scaling"),
      )
    )
  text = (
    f"At {factor:g}× the loss is at most {FAR_LOSS:.0%} above that of {name}, "
    "the best scaling."
  )
  return Claim(text, found)


def _against(scores, cell, base, methods):
  """Returns (rival's cell, paired difference) by each method of the base.

  All have fitted scales, where the cell and every rival have one; else none.
  """
  for fitted in (True, False):
    own = cell._replace(scale_fitted=fitted)
    # The trained length has no fitted scale, as it would be 1.
    rivals = [
      rival
      for method in methods
      if (rival := own._replace(model=base, method=method)) in scores
    ]
    if own in scores and rivals:
      return [
        (rival, paired.difference(scores[own], scores[rival]))
        for rival in rivals
      ]
  return []


def _at_most(own, other, tolerance):
  """Returns whether a loss is above another by `tolerance` at most, and why."""
  change = f"{own.value / other.value - 1:+.1%}"
  found = paired.difference(own, other)
  if found is None or found.low is None:
    count = found.count if found else 0
    return OPEN, (
      f"{change}; {count} texts are too few to judge by, "
      f"{intervals.MIN_VALUES} are needed"
    )
  low, high = found.low / other.value, found.high / other.value
  verdict = SHOWN if high <= tolerance else OPEN
  if low > tolerance:
    verdict = NOT_SHOWN
  return verdict, f"{change} [{low:+.1%}, {high:+.1%}], {found.count} texts"


def _spelt(task):
  return task.replace("_", "-")


def _shown(difference):
  if difference is None:
    return OPEN
  return {"ahead": SHOWN, "behind": NOT_SHOWN}.get(difference.verdict, OPEN)


def _percent(score):
  return f"{score.value:.0%}"


def _said(difference):
  if difference is None:
    return "not compared, as no questions are the same"
  value, low, high = (100 * x for x in difference[:3])
  interval = f"{value:+.0f} points [{low:+.0f}, {high:+.0f}]"
  return f"{interval}, {difference.count} questions"
