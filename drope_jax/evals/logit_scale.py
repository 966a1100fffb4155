"""The softmax temperature at longer lengths: beta(s) = 1 + c ln s.

s is test / trained length, one for a length; or a query's place / trained
length, beyond the trained length ("log-n").

Source: the DroPE paper (arXiv:2512.12167): logits times beta, c fitted by
minimizing held-out perplexity at the target length. Log-n is Su 2021
(kexue.fm/archives/8823).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, Self

from drope_jax.evals import interface, perplexity

_GOLDEN = (math.sqrt(5) - 1) / 2
_LOWEST, _HIGHEST = -0.2, 1.2
"""Of the slopes c that are tried."""


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fitted scale.

  Attributes:
    factor: s, target length / trained length.
    c: the slope; 0 where factor is 1, which no slope changes.
    scale: beta(s), which multiplies the model's own scale at its context; where
      each query has its own, that of the last one.
    losses: (c, mean loss in nats) of every c that was tried, by rising c.
  """

  factor: float
  c: float
  scale: float
  losses: tuple[tuple[float, float], ...]

  @classmethod
  def from_dict(cls, fit: Mapping[str, Any]) -> Self:
    """Returns the fit of `dataclasses.asdict`, after a pass through JSON."""
    losses = tuple((c, loss) for c, loss in fit["losses"])
    return cls(**{**fit, "losses": losses})


def scale_at(c: float, factor: float) -> float:
  """Returns beta = 1 + c ln(factor).

  Raises:
    ValueError: factor is not positive, or beta would not be.
  """
  if factor <= 0 or (scale := 1 + c * math.log(factor)) <= 0:
    raise ValueError(
      f"The logit scale 1 + c ln(factor) must be positive, got c = {c} and "
      f"factor = {factor}. Raise c or the factor."
    )
  return scale


def fit(
  lm: interface.LM,
  documents: Sequence[Sequence[int]],
  factor: float,
  *,
  evaluations: int = 9,
  by_query: bool = False,
) -> Fit:
  """Returns the c with the lowest mean token loss at `factor`.

  It is found by golden-section search between -0.2 and 1.2, and by c = 0, so
  that a fit is never worse on its documents than no scale. If the loss has one
  minimum there, c is within 1.4 * 0.618^(evaluations - 2) of it, 0.05 by
  default. Fit every method that is compared in the same way.

  Args:
    documents: token lists of `factor` times the context, neither trained on nor
      evaluated on.
    evaluations: passes over the documents, c = 0 included.
    by_query: see `interface.LM.with_logit_slope`. c is then at least 0.

  Raises:
    ValueError: too few evaluations.
  """
  if evaluations < 3:
    raise ValueError(
      f"A fit needs 3 evaluations or more, got {evaluations}. Allow more."
    )
  if factor == 1:
    return Fit(factor=factor, c=0.0, scale=1.0, losses=())
  low, high = 0.0 if by_query else _LOWEST, _HIGHEST
  losses = {}
  trained = lm.logit_scale_at(lm.context_tokens)

  def loss(c: float) -> float:
    if c not in losses:
      if by_query:
        sloped = lm.with_logit_slope(c, by_query=True)
        losses[c] = perplexity.mean_loss(sloped, documents, trained)
      else:
        scale = trained * scale_at(c, factor)
        losses[c] = perplexity.mean_loss(lm, documents, scale)
    return losses[c]

  loss(0.0)
  left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
  for _ in range(evaluations - 2):
    if loss(left) < loss(right):
      high, left, right = right, right - _GOLDEN * (right - low), left
    else:
      low, left, right = left, right, left + _GOLDEN * (high - left)
  c = min(losses, key=lambda c: losses[c])
  return Fit(
    factor=factor,
    c=c,
    scale=scale_at(c, factor),
    losses=tuple(sorted(losses.items())),
  )
