"""How a training recovers: its curves, the laws they follow, and its spikes."""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from drope_jax.analysis import records

LOSSES = ("held_out_loss", "loss")
"""Of a log; the first that it has is what recovers."""

LEAST_POINTS = 16
"""Records of a phase from which there may be a law."""
_BINS = 48
_FEWEST_PARTS = 8
"""Bins with records from which there may be a law."""
_EXPONENTS = np.geomspace(0.05, 3.0, 600)
_RESAMPLES = 400
_BLOCK = 4
_BEFORE = 32
"""Records before a record that it is compared with."""
_SPIKE = 6.0
"""Deviations above their median at which a record is a spike."""


@dataclasses.dataclass(frozen=True)
class Interval:
  """A value with its 95% interval."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Law:
  """loss = limit + scale * (tokens / 1e6)^-exponent, of one phase.

  Intervals are of resampled residuals, in blocks of neighbors. They say how
  well the curve is known, and not whether another law would fit.

  Attributes:
    phase: of the log.
    field: the loss.
    limit, scale: nats a token.
    exponent: no unit.
    deviation: of residuals, nats.
    first_tokens, last_tokens: since the phase began, between which it was
      fitted.
  """

  phase: str
  field: str
  limit: Interval
  scale: Interval
  exponent: Interval
  deviation: float
  first_tokens: float
  last_tokens: float

  def at(self, tokens: np.ndarray) -> np.ndarray:
    """Returns the losses at tokens since the phase began."""
    power = (np.asarray(tokens) / 1e6) ** -self.exponent.value
    return self.limit.value + self.scale.value * power


@dataclasses.dataclass(frozen=True)
class Spike:
  """A record whose loss is far above those before it.

  Attributes:
    step, tokens: of the log.
    loss: nats a token.
    above: the median of the records before it by so much.
  """

  step: int
  tokens: float
  loss: float
  above: float


@dataclasses.dataclass(frozen=True)
class Save:
  """A saved step's scores at the trained context.

  Attributes:
    step, tokens: since the random weights.
    loss: on held-out text, nats a token.
    recall, recall_low, recall_high: share of answered questions, with its 95%
      interval.
  """

  step: int
  tokens: float
  loss: float
  recall: float
  recall_low: float
  recall_high: float


def phases(log: records.Log) -> dict[str, records.Log]:
  """Returns the records of each phase, in order."""
  found: dict[str, list] = {}
  for record in log:
    found.setdefault(record["phase"], []).append(record)
  return {phase: tuple(own) for phase, own in found.items()}


def points(log: records.Log, field: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns (tokens, values) of the records that have a field."""
  pairs = [
    (record["tokens"], record[field])
    for record in log
    if record.get(field) is not None
  ]
  tokens, values = np.asarray(pairs, float).reshape(-1, 2).T
  return tokens, values


def laws(log: records.Log) -> list[Law]:
  """Returns the law of each phase that has enough records, and one law."""
  found, start = [], 0.0
  for phase, own in phases(log).items():
    for field in LOSSES:
      tokens, values = points(own, field)
      if len(tokens) >= LEAST_POINTS:
        law = fit(phase, field, tokens - start, values)
        found += [law] if law is not None else []
        break
    start = own[-1]["tokens"]
  return found


def fit(
  phase: str, field: str, tokens: Sequence[float], losses: Sequence[float]
) -> Law | None:
  """Returns the law with the least squares, each part of log tokens alike.

  None if the data leave the exponent open: the best one, or an end of its
  interval, is the first or last of those tried, or it is outside its interval;
  or the records fall into too few parts. Its limit would be as open.

  Args:
    phase, field: kept in the law.
    tokens: since the phase began, rising, above 0.
    losses: nats a token.
  """
  tokens, losses = (np.asarray(x, float) for x in (tokens, losses))
  log_tokens = np.log(tokens)
  edges = np.linspace(log_tokens[0], log_tokens[-1], _BINS + 1)[1:-1]
  parts = np.split(
    np.arange(len(tokens)), np.searchsorted(log_tokens, edges, "right")
  )
  parts = [part for part in parts if len(part)]
  x = np.asarray([tokens[part].mean() for part in parts]) / 1e6
  y = np.asarray([losses[part].mean() for part in parts])
  if len(parts) < _FEWEST_PARTS:
    return None
  powers_EP = x ** -_EXPONENTS[:, None]
  designs_EP2 = np.stack([np.ones_like(powers_EP), powers_EP], -1)
  inverses_E2P = np.linalg.pinv(designs_EP2)

  def best(y: np.ndarray) -> tuple[float, float, float]:
    each_E2 = inverses_E2P @ y
    fitted_EP = (designs_EP2 @ each_E2[..., None])[..., 0]
    at = int(np.square(fitted_EP - y).sum(1).argmin())
    return float(each_E2[at, 0]), float(each_E2[at, 1]), float(_EXPONENTS[at])

  limit, scale, exponent = best(y)
  fitted = limit + scale * x**-exponent
  residuals = y - fitted
  # A part of n records varies by 1 / sqrt(n), and three numbers were fitted.
  roots = np.sqrt([len(part) for part in parts])
  noise = residuals * roots * math.sqrt(len(y) / (len(y) - 3))
  rng = np.random.default_rng(0)
  blocks = math.ceil(len(y) / _BLOCK)
  again = []
  for _ in range(_RESAMPLES):
    starts = rng.integers(0, len(y), blocks)
    at = (starts[:, None] + np.arange(_BLOCK)).ravel()[: len(y)] % len(y)
    again.append(best(fitted + noise[at] / roots))
  low, high = np.quantile(again, (0.025, 0.975), axis=0).tolist()
  if not _EXPONENTS[0] < low[2] <= exponent <= high[2] < _EXPONENTS[-1]:
    return None
  return Law(
    phase,
    field,
    limit=Interval(limit, low[0], high[0]),
    scale=Interval(scale, low[1], high[1]),
    exponent=Interval(exponent, low[2], high[2]),
    deviation=float(residuals.std()),
    first_tokens=float(tokens[0]),
    last_tokens=float(tokens[-1]),
  )


def spikes(log: records.Log) -> list[Spike]:
  """Returns the records whose training loss is a spike.

  A record is compared with the 32 before it in its phase: with their median,
  in units of their deviation (1.4826 times the median absolute deviation).
  """
  found = []
  for own in phases(log).values():
    losses = [record["loss"] for record in own]
    for i in range(_BEFORE, len(own)):
      before = [x for x in losses[i - _BEFORE : i] if x is not None]
      if losses[i] is None or not before:
        continue
      median = float(np.median(before))
      deviation = 1.4826 * float(np.median(np.abs(np.subtract(before, median))))
      if losses[i] - median > _SPIKE * max(deviation, 1e-6):
        found.append(
          Spike(own[i]["step"], own[i]["tokens"], losses[i], losses[i] - median)
        )
  return found
