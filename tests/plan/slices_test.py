"""A slice's name is Google Cloud's, its topology the compiler's."""

import math

import pytest

from drope_jax.plan import slices


@pytest.mark.parametrize(
  "name,chips,topology,more",
  [
    ("v5e-256", 256, "v5e:16x16", {}),
    ("v6e-8", 8, "v6e:2x4", {}),
    ("v5p-128", 64, "v5p:4x4x4", {}),
    ("v4-32", 16, "v4:2x2x4", {"chip_config_name": "megacore"}),
    ("2xv5e-256", 512, "v5e:16x16", {"num_slices": 2}),
    ("3xv5p-8", 12, "v5p:2x2x1", {"num_slices": 3}),
  ],
)
def test_a_name_is_a_topology(name, chips, topology, more):
  found = slices.parse(name)
  assert found.chips == chips
  assert found.topology == {
    "platform": "tpu",
    "topology_name": topology,
    **more,
  }


def test_a_grid_has_as_many_chips_as_its_slice():
  for chip in slices.CHIPS.values():
    for chips, grid in chip.grids.items():
      assert math.prod(map(int, grid.split("x"))) == chips


@pytest.mark.parametrize(
  "name", ["v5e-3", "v5p-9", "v9-8", "v5e", "256", "0xv5e-8", "xv5e-8"]
)
def test_an_unknown_name_is_refused_with_those_there_are(name):
  with pytest.raises(ValueError, match=rf"one of v4-.*v5e-.*got '{name}'"):
    slices.parse(name)
