"""The paper's claims, held against the scores of one evaluation."""

from typing import NamedTuple

from drope_jax.analysis import paired, palette, runs
from drope_jax.evals import intervals

LOSS_TOLERANCE = 0.02
"""Relative difference of losses up to which one is recovered, or flat."""

RETRIEVAL_FACTOR = 4.0
"""The length factor at which retrieval is compared, where it was measured."""


class Verdict(NamedTuple):
  """A claim put to the test.

  Attributes:
    verdict: "shown", "unclear" or "not shown".
    claim: a sentence.
    evidence: the figures that decide.
    fact: (label, figure, what it is to be compared with), in a few words.
  """

  verdict: str
  claim: str
  evidence: str
  fact: tuple[str, str, str]


def verdicts(scores: runs.Scores, base: str, dropped: str) -> list[Verdict]:
  """Returns a verdict on each claim that the scores can judge.

  Methods are compared on the same questions and texts, by the interval of their
  paired difference; where it leaves both sides open, the verdict is "unclear".
  They are compared under one treatment: with a softmax scale fitted for each
  where all of them have one, otherwise all without.

  Args:
    scores: from `runs.scores`.
    base: name of the RoPE model.
    dropped: name of the model that came from it without positions.
  """
  tasks = dict.fromkeys(c.task for c in scores if c.metric == "accuracy")
  found = [_recovered(scores, base, dropped), _flat(scores, dropped)]
  for task in tasks:
    found.append(_beyond(scores, base, dropped, task))
    found.append(_ahead(scores, base, dropped, task))
  return [verdict for verdict in found if verdict]


def _recovered(scores, base, dropped):
  cell = runs.Cell("perplexity", "loss", base, "model", 1.0, False)
  before = scores.get(cell)
  after = scores.get(cell._replace(model=dropped))
  if not before or not after:
    return None
  change = after.value / before.value - 1
  verdict, evidence = _within_tolerance(after, before)
  return Verdict(
    verdict,
    "Within the trained context, the model without positions is as good as "
    f"the one with them (loss within {LOSS_TOLERANCE:.0%}).",
    f"{after.value:.3f} against {before.value:.3f} nats per token, "
    f"{change:+.1%}{evidence}.",
    ("loss at 1×, against RoPE's", f"{change:+.1%}", "1× is as trained"),
  )


def _flat(scores, dropped):
  for fitted in (True, False):
    far = {
      c.factor: s
      for c, s in scores.items()
      if c[:4] == ("perplexity", "tail_loss", dropped, "model")
      and (c.scale_fitted == fitted or c.factor == 1)
    }
    if 1 in far and len(far) > 1:
      break
  else:
    return None
  longest = max(far)
  change = far[longest].value / far[1].value - 1
  verdict, evidence = _within_tolerance(far[longest], far[1])
  return Verdict(
    verdict,
    f"Its loss stays flat to {longest:g} times the trained context"
    f"{', with a fitted softmax scale' if fitted else ''}.",
    f"{far[longest].value:.3f} nats per token over the last trained context's "
    f"length of {longest:g}× texts, {far[1].value:.3f} over the same tokens at "
    f"1×, {change:+.1%}{evidence}.",
    (f"loss at {longest:g}×, against 1×", f"{change:+.1%}", "0% is flat"),
  )


def _within_tolerance(after, before):
  """Returns whether a loss rose by `LOSS_TOLERANCE` at most, and by what."""
  found = paired.difference(after, before)
  if found is None or found.low is None:
    count = found.count if found else 0
    return "unclear", (
      f"; {count} texts are too few to judge by, {intervals.MIN_VALUES} are "
      "needed"
    )
  low, high = found.low / before.value, found.high / before.value
  verdict = "shown" if high <= LOSS_TOLERANCE else "unclear"
  if low > LOSS_TOLERANCE:
    verdict = "not shown"
  return verdict, f" [{low:+.1%}, {high:+.1%}] over {found.count} texts"


def _beyond(scores, base, dropped, task_id):
  task = task_id.replace("_", "-")
  pairs = {}
  for cell, score in scores.items():
    if cell[:4] == (task_id, "accuracy", dropped, "model") and cell.factor > 1:
      rival = scores.get(cell._replace(model=base))
      # At each factor the pair with fitted scales, where there is one.
      if rival and (cell.scale_fitted or cell.factor not in pairs):
        pairs[cell.factor] = score, rival, cell.scale_fitted
  if not pairs:
    return None
  found = {f: paired.difference(*pair[:2]) for f, pair in pairs.items()}
  ahead = [f for f, one in found.items() if one and one.verdict == "ahead"]
  factor = max(ahead, default=min(pairs))
  own, rival, fitted = pairs[factor]
  scale = "with its own fitted" if fitted else "without a"
  return Verdict(
    "shown" if ahead else _shown(found[factor]),
    f"It goes on retrieving past its context ({task}), where RoPE as trained "
    f"does not{f'; seen up to {factor:g} times' if ahead else ''}.",
    f"{_percent(own)} against {_percent(rival)} of RoPE at {factor:g}×, each "
    f"{scale} softmax scale: {_said(found[factor])}.",
    (
      f"{task} answered at {factor:g}×",
      f"{own.value:.0%}",
      f"RoPE: {rival.value:.0%}",
    ),
  )


def _ahead(scores, base, dropped, task_id):
  task = task_id.replace("_", "-")
  own = runs.Cell(task_id, "accuracy", dropped, "model", RETRIEVAL_FACTOR, True)
  if own not in scores and own._replace(scale_fitted=False) not in scores:
    factors = [c.factor for c in scores if c[:4] == own[:4]]
    own = own._replace(factor=max(factors, default=1.0))
  for fitted in (True, False):
    own = own._replace(scale_fitted=fitted)
    rivals = {
      c.method: s
      for c, s in scores.items()
      if c == own._replace(model=base, method=c.method)
    }
    if own in scores and rivals:
      break
  else:
    return None
  score = scores[own]
  found = {m: paired.difference(score, rival) for m, rival in rivals.items()}
  # Better than every one: each has to be told apart by itself.
  verdicts = {method: _shown(one) for method, one in found.items()}
  method, rival = max(rivals.items(), key=lambda item: item[1].value)
  verdict = next(
    v for v in ("not shown", "unclear", "shown") if v in verdicts.values()
  )
  name = palette.looks([(base, method)])[base, method].label
  return Verdict(
    verdict,
    f"It retrieves better than every scaling of RoPE at {own.factor:g} times "
    f"the trained context ({task}).",
    f"{_percent(score)} against {_percent(rival)} of {name}, the best; "
    f"{'each with its own fitted softmax scale' if fitted else 'all'}"
    f"{'' if fitted else ' without a softmax scale'}: {_said(found[method])}.",
    (
      f"{task} answered at {own.factor:g}×",
      f"{score.value:.0%}",
      f"{name}: {rival.value:.0%}",
    ),
  )


def _shown(difference):
  if difference is None:
    return "unclear"
  verdicts = {"ahead": "shown", "behind": "not shown"}
  return verdicts.get(difference.verdict, "unclear")


def _percent(score):
  return f"{score.value:.0%} [{score.low:.0%}, {score.high:.0%}]"


def _said(difference):
  if difference is None:
    return "not compared, as no questions are the same"
  value, low, high = (100 * x for x in difference[:3])
  return (
    f"{difference.verdict} with {difference.count} questions, by {value:+.0f} "
    f"points [{low:+.0f}, {high:+.0f}] on the same ones"
  )
