"""Windows change what a layer's queries see, and nothing else."""

import dataclasses

import jax
import numpy as np
import pytest

from drope_jax.model import transformer
from drope_jax.positional import Nope, Pattern, Rope
from drope_jax.surgery import drop_positional, windows


def test_a_window_lands_in_its_layer_and_outlives_a_drop(base):
  config, same = windows.set_windows(base, "params", ((0, 4),))
  assert config == dataclasses.replace(
    base, positional=Pattern((Rope(100.0), Rope(100.0)), (4, None))
  )
  assert same == "params"
  config, _ = drop_positional.drop_positional(config, same, (1,))
  assert config.positional == Pattern((Rope(100.0), Nope()), (4, None))
  config, _ = windows.set_windows(config, same, ((1, 8),))
  assert config.positional == Pattern((Rope(100.0), Nope()), (4, 8))


def test_a_token_beyond_all_windows_has_no_effect(base, params):
  rng = np.random.default_rng(0)
  config, _ = windows.set_windows(base, params, ((0, 2), (1, 3)))
  first, other = rng.integers(0, 32, (2, 1, 12))
  other[:, 1:] = first[:, 1:]
  assert (first[:, 0] != other[:, 0]).all()

  forward = jax.jit(transformer.forward, static_argnums=0)

  def last_V(config, tokens_BS):
    return np.asarray(forward(config, params, tokens_BS))[0, -1]

  np.testing.assert_array_equal(last_V(config, first), last_V(config, other))
  assert np.abs(last_V(base, first) - last_V(base, other)).max() > 1e-3


@pytest.mark.parametrize("given", [((2, 4),), ((0, 4), (0, 8))])
def test_layers_that_are_not_there_are_refused(base, given):
  with pytest.raises(ValueError, match=r"different layers in 0\.\.1"):
    windows.set_windows(base, {}, given)


@pytest.mark.parametrize("tokens", [0, 2**31])
def test_a_window_of_no_token_or_beyond_int32_is_refused(base, tokens):
  says = f"at most 2147483647 and at least 1 token, got {tokens}"
  with pytest.raises(ValueError, match=says):
    windows.set_windows(base, {}, ((0, tokens),))


def test_the_longest_window_sees_all(base, params):
  config, _ = windows.set_windows(base, params, ((0, 2**31 - 1),))
  tokens_BS = np.random.default_rng(0).integers(0, 32, (1, 12))
  forward = jax.jit(transformer.forward, static_argnums=0)
  np.testing.assert_array_equal(
    forward(config, params, tokens_BS), forward(base, params, tokens_BS)
  )
