"""A scaling to train on with reaches every layer that has RoPE."""

import dataclasses

import pytest

from drope_jax.positional import (
  CriticalNtk,
  Nope,
  NtkAware,
  PartialRope,
  Pattern,
  PositionInterpolation,
  Rope,
  Yarn,
)
from drope_jax.surgery import scaling

ROPE = Rope(100.0)


def _scaled(base, positional, method="yarn", factor=4.0):
  config = dataclasses.replace(base, positional=positional)
  config, same = scaling.scale_rotation(config, "params", method, factor)
  assert same == "params"
  return config.positional


@pytest.mark.parametrize(
  ("method", "factor", "scheme"),
  [
    ("pi", 4.0, PositionInterpolation(100.0, 4.0)),
    ("ntk", 8.0, NtkAware(100.0, 8.0)),
    ("yarn", 4.0, Yarn(100.0, 4.0, 16)),
    ("longrope2", 4.0, CriticalNtk(100.0, 4.0, 16)),
  ],
)
def test_each_method_scales_from_the_models_own_context(
  base, method, factor, scheme
):
  assert base.context_tokens == 16
  assert _scaled(base, ROPE, method, factor) == scheme


def test_layers_without_positions_and_windows_stay(base):
  before = Pattern((ROPE, Nope()), (4, None))
  after = Pattern((Yarn(100.0, 4.0, 16), Nope()), (4, None))
  assert _scaled(base, before) == after


@pytest.mark.parametrize(
  ("positional", "message"),
  [
    (Nope(), "needs rotary positions in some layer"),
    (PartialRope(ROPE, 2), "needs a model with plain Rope"),
  ],
)
def test_what_has_no_plain_rope_is_refused(base, positional, message):
  with pytest.raises(ValueError, match=message):
    _scaled(base, positional)
