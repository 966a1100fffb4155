"""A row's cycles are those of the tiles that causality leaves in it."""

import pathlib

import numpy as np
import pytest

from drope_jax.attention.flash_tpu import block_table
from drope_jax.attention.flash_tpu.units import Blocks

TOOLS = pathlib.Path(__file__).parents[2] / "tools"
TOKENS = 2048


@pytest.fixture
def tools(monkeypatch):
  monkeypatch.syspath_prepend(TOOLS)
  import attention_schedule
  import tpu_schedule
  import tune_attention

  return attention_schedule, tpu_schedule, tune_attention


def tile_counts(q: int, k: int) -> tuple[int, int]:
  """Returns how many tiles are seen whole and in part, element by element."""
  visible = np.tri(TOKENS, dtype=bool)
  seen = visible.reshape(TOKENS // q, q, TOKENS // k, k).mean((1, 3))
  return int((seen == 1).sum()), int(((seen > 0) & (seen < 1)).sum())


@pytest.mark.parametrize("q, k", [(256, 256), (512, 256), (256, 512)])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_our_row_is_made_of_its_tiles(tools, direction, q, k):
  schedule, reader, _ = tools
  # Digits that tell what was counted how often.
  pieces = ((10**3,), (10**5,))
  if direction == "backward":
    pieces = ((10**7, 10**3), (10**9, 10**5))
  kernel = reader.Kernel(direction, 1, (10**11, 10**13), *pieces, 0)
  blocks = Blocks(q, k, 128, 128, 1, 1)
  cycles = schedule.flash_cycles(direction, kernel, blocks, TOKENS)
  whole, partial = tile_counts(q, k)
  rows = TOKENS // (q if direction == "forward" else k)
  expected = 1 * (whole + partial) + 10**11 * whole + 10**13 * partial
  expected += 10**3 * rows + 10**5 * rows
  if direction == "backward":
    expected += 10**7 + 10**9 * (TOKENS // q)
  assert cycles == expected


@pytest.mark.parametrize("q, k", [(256, 256), (512, 256), (256, 512)])
def test_a_peer_has_a_step_for_hidden_tiles_too(tools, q, k):
  schedule, reader, _ = tools
  kernel = reader.Kernel("fwd", 1, (10**7,), (10**3,), (10**5,), 0)
  cycles = schedule.splash_cycles("forward", kernel, (q, k, 128), TOKENS)
  rows, columns = TOKENS // q, TOKENS // k
  tiles = 10**7 * sum(tile_counts(q, k))
  assert cycles == rows * columns + tiles + (10**3 + 10**5) * rows


def test_code_cut_otherwise_counts_as_often_as_any(tools):
  schedule, reader, _ = tools
  # Beside the tiles, four pieces are known; here those after them are one.
  kernel = reader.Kernel("backward", 0, (0, 0), (0, 0), (1,), 0)
  blocks = Blocks(512, 256, 128, 128, 1, 1)
  cycles = schedule.flash_cycles("backward", kernel, blocks, TOKENS)
  assert cycles == TOKENS // 256


def test_mfu_is_one_at_the_matrix_units_rate(tools):
  schedule, _, _ = tools
  case = schedule.Case("splash", "v5e", 4096, 128, (1024, 1024, 512))
  # 2 * 4096**2 / 2 * 128 multiply-adds, at 4 * 128 * 128 a cycle.
  assert case.mfu("forward", 2**15) == 1
  assert case.mfu("backward", 5 * 2**14) == 1


def test_the_table_is_written_as_it_is_read(tools, monkeypatch, tmp_path):
  _, _, tune = tools
  text = pathlib.Path(block_table.__file__).read_text()
  copy = tmp_path / "block_table.py"
  copy.write_text(text)
  monkeypatch.setattr(block_table, "__file__", str(copy))
  rows = {row[:3]: row[3:] for row in block_table.ROWS}
  assert rows
  tune._write(rows)
  assert copy.read_text() == text
  tune._write(rows | {("v9", 8, "forward"): (1, 2, 3, 4, 5, 6, 7, 8)})
  lines = copy.read_text().splitlines()
  assert '  ("v9", 8, "forward", 1, 2, 3, 4, 5, 6, 7, 8),' in lines


def test_neighbours_lie_one_step_away_and_lead_back(tools):
  _, _, tune = tools
  blocks = Blocks(1024, 1024, 256, 128, 4, 2)
  near = list(tune._neighbours(blocks))
  # Two steps for each of six choices, but for four that are at their ends.
  assert len(set(near)) == 2 * 6 - 4
  assert all(blocks in tune._neighbours(other) for other in near)
