"""A dropped layer is a layer without positions; nothing else changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.model import transformer
from drope_jax.positional import (
  Alibi,
  LogScaled,
  Nope,
  PartialRope,
  Pattern,
  Rope,
)
from drope_jax.surgery import drop_positional

TOKENS_BS = jnp.asarray(np.random.default_rng(0).integers(0, 32, (2, 12)))


@pytest.fixture(scope="module")
def base(base):
  return dataclasses.replace(base, num_layers=4)


_forward = jax.jit(transformer.forward, static_argnums=0)


def _logits(config, params):
  return np.asarray(_forward(config, params, TOKENS_BS))


def test_dropping_all_is_the_model_without_positions(base, params):
  config, same = drop_positional.drop_positional(base, params)
  assert config == dataclasses.replace(base, positional=Nope())
  assert same is params
  moved = np.abs(_logits(config, params) - _logits(base, params)).max()
  assert moved > 0.1, "positions had no effect; the test proves nothing"


def test_a_partial_drop_is_a_pattern(base, params):
  config, same = drop_positional.drop_positional(base, params, (3, 1))
  assert config.positional == Pattern((Rope(100.0), Nope()))
  some = _logits(config, same)
  for other in (base, dataclasses.replace(base, positional=Nope())):
    assert np.abs(_logits(other, params) - some).max() > 0.1


def test_dropping_in_two_steps_is_dropping_all(base, params):
  config, _ = drop_positional.drop_positional(base, params, (0, 2))
  config, _ = drop_positional.drop_positional(config, params, (1, 3))
  assert config.positional == Nope()


def test_windows_are_kept(base, params):
  windowed = Pattern((Rope(), Rope()), (4, None))
  config = dataclasses.replace(base, positional=windowed)
  config, _ = drop_positional.drop_positional(config, params)
  assert config.positional == Pattern((Nope(), Nope()), (4, None))


def test_a_scale_by_position_is_kept(base, params):
  scaled = dataclasses.replace(base, positional=LogScaled(Rope(100.0), 16))
  some, _ = drop_positional.drop_positional(scaled, params, keep_pairs=1)
  assert some.positional == LogScaled(PartialRope(Rope(100.0), 1), 16)
  none, _ = drop_positional.drop_positional(some, params)
  assert none.positional == LogScaled(Nope(), 16)
  with pytest.raises(ValueError, match=r"none in \[0, 1, 2, 3\]: LogScaled"):
    drop_positional.drop_positional(none, params)


@pytest.mark.parametrize("layers", [(), (4,), (-1,), (1, 1)])
def test_layers_that_are_not_there_are_refused(base, params, layers):
  with pytest.raises(ValueError, match=r"different layers in 0\.\.3"):
    drop_positional.drop_positional(base, params, layers)


def test_all_is_all_that_have_positions(base, params):
  some = dataclasses.replace(base, positional=Pattern((Rope(100.0), Nope())))
  config, _ = drop_positional.drop_positional(some, params)
  assert config == dataclasses.replace(base, positional=Nope())


def test_dropping_twice_is_refused(base, params):
  config, _ = drop_positional.drop_positional(base, params, (1,))
  with pytest.raises(ValueError, match=r"none in \[1\]: Nope"):
    drop_positional.drop_positional(config, params, (0, 1))
  config, _ = drop_positional.drop_positional(config, params)
  with pytest.raises(ValueError, match=r"none in \[0, 1, 2, 3\]: Nope"):
    drop_positional.drop_positional(config, params)


def test_the_slow_pairs_alone_can_be_dropped(base, params):
  # Of 16 tokens, theta 100's four pairs complete 2.5, 0.8, 0.25 and 0.08
  # rotations.
  for kept in ({"keep_rotations": 1.0}, {"keep_pairs": 1}):
    config, same = drop_positional.drop_positional(base, params, **kept)
    assert config.positional == PartialRope(Rope(100.0), 1)
    assert same is params
  config, _ = drop_positional.drop_positional(base, params, keep_rotations=0.5)
  assert config.positional == PartialRope(Rope(100.0), 2)
  some = _logits(config, params)
  for other in (base, dataclasses.replace(base, positional=Nope())):
    assert np.abs(_logits(other, params) - some).max() > 0.1


def test_pairs_are_dropped_in_some_layers_and_then_all(base, params):
  config, _ = drop_positional.drop_positional(
    base, params, (0, 2), keep_pairs=2
  )
  half, rope = PartialRope(Rope(100.0), 2), Rope(100.0)
  assert config.positional == Pattern((half, rope))
  config, _ = drop_positional.drop_positional(config, params, keep_pairs=1)
  assert config.positional == PartialRope(rope, 1)
  config, _ = drop_positional.drop_positional(config, params)
  assert config.positional == Nope()


def test_no_pair_fast_enough_is_dropping_all(base, params):
  config, _ = drop_positional.drop_positional(base, params, keep_rotations=3.0)
  assert config.positional == Nope()


def test_a_drop_of_no_pair_is_refused(base, params):
  for kept in ({"keep_rotations": 0.01}, {"keep_pairs": 4}):
    with pytest.raises(ValueError, match=r"none in \[0, 1, 2, 3\]: Rope"):
      drop_positional.drop_positional(base, params, **kept)
  config, _ = drop_positional.drop_positional(base, params, (1,), keep_pairs=1)
  with pytest.raises(ValueError, match=r"none in \[1\]: PartialRope"):
    drop_positional.drop_positional(config, params, (0, 1), keep_rotations=1.0)


def test_pairs_of_positions_that_are_not_rotary_are_refused(base, params):
  config = dataclasses.replace(base, positional=Alibi())
  with pytest.raises(ValueError, match="where positions are rotary"):
    drop_positional.drop_positional(config, params, keep_rotations=1.0)
