import dataclasses
import logging as std_logging

import jax.numpy as jnp
import pytest

from drope_jax import attention
from drope_jax.attention import backends, flash_tpu
from drope_jax.attention.flash_tpu import block_table, blocks
from drope_jax.cli import configure
from drope_jax.train.recipe import Recipe

DIRECTIONS = ("forward", "backward")


def test_the_table_has_each_chip_in_both_directions():
  rows = {row[:3] for row in block_table.ROWS}
  assert len(rows) == len(block_table.ROWS)
  for chip in ("v5e", "v5p", "v6e"):
    for head_dim in (64, 128):
      for direction in DIRECTIONS:
        assert (chip, head_dim, direction) in rows


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_the_table_lacks_takes_the_nearest(direction, caplog):
  caplog.set_level(std_logging.INFO, "absl")
  exact = blocks.nearest("v6e", 64, direction)
  assert not caplog.records
  assert blocks.nearest("v6e", 72, direction) == exact
  # Between two sizes, the larger: both fill as many registers.
  larger = blocks.nearest("v6e", 128, direction)
  assert blocks.nearest("v6e", 96, direction) == larger
  assert blocks.nearest(None, 64, direction) == blocks.nearest(
    "v5e", 64, direction
  )


@pytest.mark.parametrize("missing", DIRECTIONS)
def test_blocks_are_needed_in_both_directions(missing):
  given = {
    f"{direction}_blocks": blocks.nearest("v5e", 64, direction)
    for direction in DIRECTIONS
    if direction != missing
  }
  x_BSHD = jnp.zeros((1, 8, 1, 64))
  with pytest.raises(ValueError, match="needs blocks for its chip, got none"):
    flash_tpu.attend(*(x_BSHD,) * 3, attention.Mask(), 1.0, **given)


def test_a_tile_is_made_of_whole_units():
  with pytest.raises(ValueError, match="512 x 512 and units of 384 x 128"):
    attention.Blocks(512, 512, 384, 128, 1, 1)


@pytest.mark.parametrize("change", [{"unit_q": 0}, {"ahead": -1}, {"part": 0}])
def test_blocks_without_a_size_are_refused(change):
  with pytest.raises(ValueError, match="sizes of at least 1.*got Blocks"):
    dataclasses.replace(attention.Blocks(512, 512, 128, 128, 1, 1), **change)


def test_a_recipe_may_give_blocks_of_its_own(monkeypatch):
  sizes = {"q": 512, "k": 256, "unit_q": 128, "unit_k": 256}
  bindings = [f"Blocks.{name} = {size}" for name, size in sizes.items()]
  recipe = configure.build(
    "recipes/tiny.gin",
    Recipe,
    [
      "Recipe.attention = @FlashTpu()",
      "FlashTpu.forward = @Blocks()",
      *(*bindings, "Blocks.ahead = 3", "Blocks.behind = 0"),
    ],
  )
  given = {}

  def attend(*_, **options):
    given.update(options)

  stub = backends.Backend(attend, frozenset())
  monkeypatch.setattr(backends, "BACKENDS", {"flash_tpu": stub})
  backends.select(recipe.attention, set())()
  assert given == {
    "forward_blocks": attention.Blocks(512, 256, 128, 256, 3, 0),
    "backward_blocks": None,
  }
