"""The paper's claims, held against the scores of one evaluation."""

from typing import NamedTuple

from drope_jax.analysis import palette, runs

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

  Methods are compared under one treatment: with a softmax scale fitted for
  each where all of them have one, otherwise all without.

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
  return Verdict(
    "shown" if change <= LOSS_TOLERANCE else "not shown",
    "Within the trained context, the model without positions is as good as "
    f"the one with them (loss within {LOSS_TOLERANCE:.0%}).",
    f"{after.value:.3f} against {before.value:.3f} nats per token, "
    f"{change:+.1%}.",
    ("loss at 1×, against RoPE's", f"{change:+.1%}", "1× is as trained"),
  )


def _flat(scores, dropped):
  for fitted in (True, False):
    far = {
      c.factor: s.value
      for c, s in scores.items()
      if c[:4] == ("perplexity", "tail_loss", dropped, "model")
      and (c.scale_fitted == fitted or c.factor == 1)
    }
    if 1 in far and len(far) > 1:
      break
  else:
    return None
  longest = max(far)
  change = far[longest] / far[1] - 1
  return Verdict(
    "shown" if change <= LOSS_TOLERANCE else "not shown",
    f"Its loss stays flat to {longest:g} times the trained context"
    f"{', with a fitted softmax scale' if fitted else ''}.",
    f"{far[longest]:.3f} nats per token over the last trained context's "
    f"length of a {longest:g}× text, {far[1]:.3f} at 1×, {change:+.1%}.",
    (f"loss at {longest:g}×, against 1×", f"{change:+.1%}", "0% is flat"),
  )


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
  ahead = [f for f, (own, rival, _) in pairs.items() if own.low > rival.high]
  factor = max(ahead, default=min(pairs))
  own, rival, fitted = pairs[factor]
  scale = "with its own fitted" if fitted else "without a"
  return Verdict(
    "shown" if ahead else "not shown",
    f"It goes on retrieving past its context ({task}), where RoPE as trained "
    f"does not{f'; seen up to {factor:g} times' if ahead else ''}.",
    f"{own.value:.0%} [{own.low:.0%}, {own.high:.0%}] against "
    f"{rival.value:.0%} [{rival.low:.0%}, {rival.high:.0%}] of RoPE at "
    f"{factor:g}×, each {scale} softmax scale.",
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
  method, rival = max(rivals.items(), key=lambda item: item[1].value)
  if score.low > rival.high:
    verdict = "shown"
  else:
    verdict = "unclear" if score.value > rival.value else "not shown"
  name = palette.looks([(base, method)])[base, method].label
  return Verdict(
    verdict,
    f"It retrieves better than every scaling of RoPE at {own.factor:g} times "
    f"the trained context ({task}).",
    f"{score.value:.0%} [{score.low:.0%}, {score.high:.0%}] against "
    f"{rival.value:.0%} [{rival.low:.0%}, {rival.high:.0%}] of {name}, the "
    f"best; {'each with its own fitted softmax scale' if fitted else 'all'}"
    f"{'' if fitted else ' without a softmax scale'}.",
    (
      f"{task} answered at {own.factor:g}×",
      f"{score.value:.0%}",
      f"{name}: {rival.value:.0%}",
    ),
  )
