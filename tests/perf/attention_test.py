"""A kernel's cycles are those of the code that it runs, as often as it does."""

import numpy as np
import pytest

from drope_jax.attention.flash_tpu import backward
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.perf import attention
from drope_jax.perf.schedule import Kernel

TOKENS = 2048
DIRECTIONS = ("forward", "backward")


def tile_counts(q: int, k: int, seen=None) -> tuple[int, int]:
  """Returns how many tiles are seen whole and in part, element by element."""
  seen = np.tri(TOKENS, dtype=bool) if seen is None else seen
  shape = (seen.shape[0] // q, q, seen.shape[1] // k, k)
  share = seen.reshape(shape).mean((1, 3))
  return int((share == 1).sum()), int(((share > 0) & (share < 1)).sum())


@pytest.mark.parametrize("q, k", [(256, 256), (512, 256), (256, 512)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_our_cycles_are_those_of_the_tiles(direction, q, k):
  # Digits that tell what was counted how often.
  pieces = ((10**3,), (10**5,))
  if direction == "backward":
    pieces = ((10**7, 10**3), (10**9, 10**5))
  kernel = Kernel(direction, 1, (10**11, 10**13), *pieces, 0)
  blocks = Blocks(q, k, 128, 128, 1, 1)
  cycles = attention.flash_cycles(direction, kernel, blocks, TOKENS, 128)
  whole, partial = tile_counts(q, k)
  rows = TOKENS // (q if direction == "forward" else k)
  expected = 1 * (whole + partial) + 10**11 * whole + 10**13 * partial
  expected += 10**3 * rows + 10**5 * rows
  if direction == "backward":
    expected += 10**7 + 10**9 * (TOKENS // q)
  assert cycles == expected


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_part_of_a_divided_tile_takes_a_trip(direction):
  kernel = Kernel(direction, 0, (), (), (), 0, 0, (10**6, 10**9), 1)
  blocks = Blocks(512, 512, 128, 128, 1, 1, part=256)
  cycles = attention.flash_cycles(direction, kernel, blocks, TOKENS, 128)
  whole, partial = tile_counts(256, 256)
  trips = 4 * sum(tile_counts(512, 512))
  assert cycles == 10**6 * whole + 10**9 * partial + trips


def test_whole_tiles_may_be_undivided_beside_those_that_a_window_cuts():
  parts = (10**6, 10**9)
  kernel = Kernel("forward", 0, (10**12, 10**15), (), (), 0, 0, parts, 1)
  blocks = Blocks(512, 512, 128, 128, 1, 1, part=256, undivided=True)
  cycles = attention.flash_cycles(
    "forward", kernel, blocks, TOKENS, 128, option="window"
  )
  # Of 4 x 4 tiles the window of 1024 leaves the diagonal and the next below
  # whole, and cuts the two below that: of 2 x 2 parts it hides the lower left.
  assert attention.MASK_TOKENS == 1024
  assert cycles == 4 * 10**15 + 3 * 10**12 + 2 * (3 * 10**6 + 4)


def test_a_length_between_tiles_counts_those_of_its_padding():
  kernel = Kernel("forward", 1, (10**3, 10**6), (), (), 0)
  blocks = Blocks(256, 256, 128, 128, 1, 1)
  padded = attention.flash_cycles("forward", kernel, blocks, 768, 128)
  assert attention.flash_cycles("forward", kernel, blocks, 600, 128) == padded
  case = attention.Case("flash", "v5e", 5000, 128)
  # At most 1, were there no padding.
  floor = 2 * 5000**2 / 2 * 128 / (4 * 128**2)
  assert case.mfu("forward", floor) == 1


def test_grouped_heads_in_chunks_count_those_of_one_head(monkeypatch):
  heads, tokens = 4, 1024
  group_bytes_of_a_query = heads * 4 * 128
  monkeypatch.setattr(backward, "_SUM_BYTES", 512 * group_bytes_of_a_query)
  blocks = Blocks(256, 256, 128, 128, 1, 1)
  # In chunks an offset is known on the device only: one more kind of tile, and
  # a step for each tile above the diagonal.
  kernel = Kernel("backward", 1, (10**4, 10**8, 10**12), (), (), 0)
  cycles = attention.flash_cycles(
    "backward", kernel, blocks, tokens, 128, group_size=heads
  )
  seen = np.tri(tokens, dtype=bool)
  whole, diagonal = tile_counts(256, 256, seen)
  assert cycles == (tokens // 256) ** 2 + 10**4 * whole + 10**8 * diagonal


def test_a_schedule_of_other_code_is_refused():
  kernel = Kernel("forward", 1, (1, 2, 3), (), (), 0)
  blocks = Blocks(256, 256, 128, 128, 1, 1)
  with pytest.raises(ValueError, match=r"2 kinds of tile .* got cycles \(1, 2"):
    attention.flash_cycles("forward", kernel, blocks, TOKENS, 128)


@pytest.mark.parametrize("q, k", [(256, 256), (512, 256), (256, 512)])
def test_a_peer_has_a_step_for_hidden_tiles_too(q, k):
  kernel = Kernel("fwd", 1, (10**7,), (10**3,), (10**5,), 0)
  cycles = attention.splash_cycles("forward", kernel, (q, k, 128), TOKENS)
  rows, columns = TOKENS // q, TOKENS // k
  tiles = 10**7 * sum(tile_counts(q, k))
  assert cycles == rows * columns + tiles + (10**3 + 10**5) * rows


def test_code_in_other_branches_counts_as_often_as_any():
  # Four branches beside the tiles are known; here those after them are one.
  kernel = Kernel("backward", 0, (0, 0), (0, 0), (1,), 0)
  blocks = Blocks(512, 256, 128, 128, 1, 1)
  cycles = attention.flash_cycles("backward", kernel, blocks, TOKENS, 128)
  assert cycles == TOKENS // 256


def test_mfu_is_one_at_the_matrix_units_rate():
  case = attention.Case("splash", "v5e", 4096, 128, (1024, 1024, 512))
  # 2 * 4096**2 / 2 * 128 multiply-adds, at 4 * 128 * 128 a cycle.
  assert case.mfu("forward", 2**15) == 1
  assert case.mfu("backward", 5 * 2**14) == 1
