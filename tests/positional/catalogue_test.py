"""Every positional scheme can be named, built, hashed and kept in a config."""

import dataclasses
import inspect

import pytest

from drope_jax import positional
from drope_jax.positional import (
  alibi,
  fope,
  kerple,
  learned_absolute,
  log_scaled,
  longrope,
  nope,
  partial,
  pattern,
  rotary,
  scaling,
)

MODULES = (
  alibi,
  fope,
  kerple,
  learned_absolute,
  log_scaled,
  longrope,
  nope,
  partial,
  pattern,
  rotary,
  scaling,
)
# What a Pattern becomes, and what lives inside a jitted function only.
NOT_A_CHOICE = {"LayerPlan", "Positions", "Given"}
# What the schemes that cannot be made from their defaults need.
NEEDED = {
  "Pattern": ((positional.Rope(), positional.Nope()), (8, None)),
  "RescaledRope": (1e4, (1.0, 2.0)),
  "LongRope": (1e4, (1.0, 2.0), (1.0, 4.0)),
}
EXAMPLES = {
  name: kind(*NEEDED.get(name, ()))
  for name, kind in positional.CATALOGUE.items()
}


def test_the_catalogue_holds_every_scheme_of_the_package():
  defined = {
    name
    for module in MODULES
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if kind.__module__ == module.__name__ and not inspect.isabstract(kind)
  }
  assert set(positional.CATALOGUE) == defined - NOT_A_CHOICE
  with pytest.raises(TypeError):
    positional.CATALOGUE["Rope"] = positional.Nope


@pytest.mark.parametrize("name", positional.CATALOGUE)
def test_a_scheme_is_a_frozen_hashable_value(name):
  scheme = EXAMPLES[name]
  twin = dataclasses.replace(scheme)
  assert twin is not scheme
  assert twin == scheme and hash(twin) == hash(scheme)
  for field in dataclasses.fields(scheme):
    with pytest.raises(dataclasses.FrozenInstanceError):
      setattr(scheme, field.name, None)


def test_schemes_with_the_same_fields_are_not_equal():
  assert positional.Nope() != positional.Alibi()
  assert positional.PositionInterpolation() != positional.NtkAware()
