"""A new theta reaches every rotary scheme, whatever holds it."""

import dataclasses

import pytest

from drope_jax.positional import (
  Dynamic,
  Fope,
  LogScaled,
  LongRope,
  Nope,
  NtkAware,
  PartialRope,
  Pattern,
  Rope,
  Yarn,
)
from drope_jax.surgery import theta

PAIRS = (1.0, 1.0, 2.0, 4.0)


def _changed(base, positional):
  config = dataclasses.replace(base, positional=positional)
  config, same = theta.change_theta(config, "params", 500.0)
  assert same == "params"
  return config.positional


@pytest.mark.parametrize(
  ("before", "after"),
  [
    (Rope(100.0), Rope(500.0)),
    (Yarn(100.0, 4.0, 64), Yarn(500.0, 4.0, 64)),
    (PartialRope(Rope(100.0), 2), PartialRope(Rope(500.0), 2)),
    (LongRope(100.0, PAIRS, PAIRS), LongRope(500.0, PAIRS, PAIRS)),
    (Dynamic(NtkAware(100.0), 16), Dynamic(NtkAware(500.0), 16)),
    (Fope(100.0, 64), Fope(500.0, 64)),
    (LogScaled(Rope(100.0), 64), LogScaled(Rope(500.0), 64)),
    (
      Pattern((Rope(100.0), Nope()), (4, None)),
      Pattern((Rope(500.0), Nope()), (4, None)),
    ),
  ],
)
def test_theta_changes_and_nothing_else(base, before, after):
  assert _changed(base, before) == after


def test_a_model_without_rotary_positions_is_refused(base):
  for scheme in (Nope(), LogScaled(Nope())):
    with pytest.raises(ValueError, match="needs rotary positions in some"):
      _changed(base, scheme)
