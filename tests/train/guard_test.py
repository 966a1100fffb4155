"""The guard: what is skipped, against medians in numpy."""

import functools
import math

import jax
import numpy as np
import pytest

from drope_jax.train import guard


def _judge(chosen, losses, norms):
  """Returns each step's verdict, and the last state."""
  state, verdicts = chosen.init(), []
  judge = jax.jit(functools.partial(guard.Guard.judge, chosen))
  for loss, norm in zip(losses, norms, strict=True):
    takes, state = judge(state, loss, norm)
    verdicts.append(bool(takes))
  return verdicts, jax.device_get(state)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_skipped_and_counted(bad):
  losses = [1.0, bad, 1.0, 1.0, 1.0, bad, 1.0]
  norms = [1.0, 1.0, bad, bad, 1.0, bad, 1e30]
  verdicts, state = _judge(guard.Guard(), losses, norms)
  assert verdicts == [True, False, False, False, True, False, True]
  assert state["skipped"] == 4 and state["taken"] == 3
  assert state["longest_row"] == 3 and state["skipped_in_a_row"] == 0


def test_a_spike_is_a_multiple_of_the_median_of_steps_taken():
  rng = np.random.default_rng(0)
  losses = np.exp(0.7 * rng.normal(size=300)).astype(np.float32)
  norms = np.exp(0.7 * rng.normal(size=300)).astype(np.float32)
  losses[120:] /= 4  # The window moves on.
  window, ratio = 7, 3.0
  want, taken = [], []
  for loss, norm in zip(losses, norms, strict=True):
    recent = np.array(taken[-window:])
    takes = len(taken) < window or (
      loss <= ratio * np.median(recent[:, 0])
      and norm <= ratio * np.median(recent[:, 1])
    )
    want.append(bool(takes))
    if takes:
      taken.append((loss, norm))
  assert 10 < want.count(False) < 100
  got, state = _judge(guard.Guard(ratio, window), losses, norms)
  assert got == want
  assert state["skipped"] == want.count(False)


def test_it_judges_the_first_step_after_its_window():
  chosen = guard.Guard(max_ratio=3.0, window_steps=4)
  for losses, last in ([1.0, 1.0, 1.0, 9.0], True), ([1.0] * 4 + [9.0], False):
    verdicts, _ = _judge(chosen, losses, [1.0] * len(losses))
    assert verdicts == [True] * (len(losses) - 1) + [last]


@pytest.mark.parametrize(
  "fields",
  [
    {"max_ratio": 1.0},
    {"max_ratio": math.inf},
    {"window_steps": 0},
    {"max_skips_in_a_row": 0},
  ],
)
def test_impossible_guards_are_refused(fields):
  with pytest.raises(ValueError, match="A Guard needs.*got Guard"):
    guard.Guard(**fields)
