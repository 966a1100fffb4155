"""Each variant of the sweep is the shipped recipe with another drop."""

import dataclasses
import importlib.util
import pathlib
import sys

import pytest

from drope_jax.cli import configure
from drope_jax.positional import Nope, PartialRope, Pattern, Rope
from drope_jax.train import phases, preflight, recipe

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "ladder.py"
ROPE = Rope(500.0)


@pytest.fixture(scope="module")
def ladder():
  spec = importlib.util.spec_from_file_location("ladder", TOOL)
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # Its dataclass looks itself up there.
  spec.loader.exec_module(module)
  yield module
  del sys.modules[spec.name]


@pytest.mark.parametrize("tokens", ["1.0M", "6.2M"])
@pytest.mark.parametrize(
  ("drop", "positional"),
  [
    ("keep0", Nope()),
    ("keep3", PartialRope(ROPE, 3)),
    ("keep6", PartialRope(ROPE, 6)),
    ("keep8", PartialRope(ROPE, 8)),
    ("keep12", PartialRope(ROPE, 12)),
    ("keep16", ROPE),
    ("window", Pattern((ROPE, *[Nope()] * 5), (32, *[None] * 5))),
    ("theta", Rope(10_000.0)),
  ],
)
def test_a_variant_differs_only_in_its_drop(ladder, drop, tokens, positional):
  variant = ladder.Variant(drop, tokens, 2)
  size = ladder.SIZES[tokens]
  built = configure.build(
    size.recipe, recipe.Recipe, [*variant.overrides(ladder._BASE, 500.0)]
  )
  shipped = configure.build(size.recipe, recipe.Recipe)
  config = preflight.start_config(built)
  trainings = []
  for phase in built.phases:
    if isinstance(phase, phases.SurgeryPhase):
      config = preflight.config_after(phase, config)
    else:
      trainings.append(phase)
  assert config.positional == positional
  taught = tokens == "1.0M" and drop != "keep16"
  assert {bool(training.teacher) for training in trainings} == {taught}
  assert trainings == [
    p if drop != "keep16" else dataclasses.replace(p, teacher=None)
    for p in shipped.phases
    if isinstance(p, phases.TrainPhase)
  ]
  same = dataclasses.replace(shipped, phases=built.phases, seed=2)
  assert built == same


def test_every_variant_occurs_once(ladder):
  drops, sizes = list(ladder._DROPS), list(ladder.SIZES)
  found = [variant.name for variant in ladder.variants(drops, sizes, 3)]
  assert len(found) == len(set(found)) == 8 * 2 * 3
  assert found[:3] == ["keep12_1.0M_s0", "keep0_1.0M_s0", "keep16_1.0M_s0"]
