import dataclasses
import logging as std_logging

import jax.numpy as jnp
import pytest

from drope_jax import attention
from drope_jax.attention import Mask, Rotation, backends, flash_tpu
from drope_jax.attention.flash_tpu import (
  backward,
  block_table,
  blocks,
  forward,
  grid,
  tiles,
)
from drope_jax.attention.flash_tpu.grid import Inputs
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
    flash_tpu.attend(*(x_BSHD,) * 3, Mask(), 1.0, **given)


# The sizes in comments are what libtpu 0.0.51 said of the kernel with more.
@pytest.mark.parametrize(
  ("chip", "D", "G", "dtype", "rotates", "tile", "chunk"),
  [
    ("v5e", 128, 4, jnp.bfloat16, True, 2048, 8192),
    ("v5e", 256, 2, jnp.bfloat16, False, 2048, 8192),
    ("v5e", 256, 2, jnp.bfloat16, True, 2048, 4096),  # 8192 takes 65 MiB.
    ("v5e", 128, 4, jnp.float32, True, 2048, 4096),  # 8192 takes 67 MiB.
    ("v5p", 512, 1, jnp.bfloat16, True, 1024, 4096),
    ("v4", 128, 4, jnp.bfloat16, True, 512, 1024),  # 2048 takes 23 MiB.
    ("v4", 256, 2, jnp.bfloat16, True, 256, 1280),
  ],
)
def test_tiles_and_queries_are_as_many_as_vmem_has_room_for(
  chip, D, G, dtype, rotates, tile, chunk
):
  S = 8192
  q_BHSD, k_BKTD = (jnp.broadcast_to(dtype(0), (1, h, S, D)) for h in (G, 1))
  table_N2SD = jnp.broadcast_to(0.0, (1, 2, S, D))
  rotation = Rotation(table_N2SD, table_N2SD, jnp.zeros(1, jnp.int32))
  inputs = Inputs(
    q_BHSD, k_BKTD, k_BKTD, Mask(), None, rotation if rotates else None
  )
  fitted = blocks.nearest(chip, D, "backward").fitted(S, S)
  assert fitted.tile == (2048, 2048)
  found, found_chunk = backward.division(inputs, fitted)
  assert (*found.tile, found_chunk) == (tile, tile, chunk)
  found = forward.division(inputs, blocks.nearest(chip, D, "forward"))
  assert found.tile[0] >= tile


def test_rows_of_a_batch_take_little_scalar_memory():
  # Of a matrix, each row takes 128 numbers: 1,024 rows did not compile.
  B, S, segment_BS = 1024, 512, jnp.zeros((1024, 512), jnp.int32)
  x_BHSD = jnp.broadcast_to(jnp.bfloat16(0), (B, 1, S, 64))
  mask = Mask(q_segment_BS=segment_BS, k_segment_BT=segment_BS)
  inputs = Inputs(x_BHSD, x_BHSD, x_BHSD, mask, None, None)
  division = attention.Blocks(256, 256, 128, 128, 1, 1, part=128)
  visits = tiles.by_query((S, S), division.tile, causal=True)
  found = grid.scalars(inputs, visits, division, inputs.code(division))
  assert {x.ndim for x in found.values()} == {1}
  # Three tiles: 4 numbers of each, and for each row 2, and those of 4 parts.
  assert sum(x.size for x in found.values()) == 3 * (4 + B * (2 + 4))


def test_the_smallest_tile_is_one_unit():
  unit = attention.Blocks(512, 256, 256, 128, 1, 1, vmem_bytes=1).halved()
  assert unit.tile == (256, 128) and unit.halved() == unit


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
