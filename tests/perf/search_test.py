"""The search moves by single steps, and its table is read as it was written."""

from concurrent import futures
import pathlib

import pytest

from drope_jax.attention.flash_tpu import block_table
from drope_jax.attention.flash_tpu.blocks import Blocks, of_row
from drope_jax.perf import search


def test_the_table_is_written_as_it_is_read(monkeypatch, tmp_path):
  text = pathlib.Path(block_table.__file__).read_text()
  copy = tmp_path / "block_table.py"
  copy.write_text(text)
  monkeypatch.setattr(block_table, "__file__", str(copy))
  rows = {row[:3]: row[3:] for row in block_table.ROWS}
  assert rows
  search.write_table(rows)
  assert copy.read_text() == text
  search.write_table(rows | {("v9", 8, "forward"): (1, 2, 3, 4, 5)})
  lines = copy.read_text().splitlines()
  assert '  ("v9", 8, "forward", 1, 2, 3, 4, 5),' in lines


def test_neighbors_lie_one_step_away_and_lead_back():
  blocks = Blocks(1024, 1024, 256, 128, 4, 2)
  near = list(search.neighbors(blocks))
  # Two steps for each of six choices, but for four that are at their ends.
  assert len(set(near)) == 2 * 6 - 4
  assert all(blocks in search.neighbors(other) for other in near)


@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_a_search_divides_tiles_as_the_table_does(chip, monkeypatch):
  monkeypatch.setattr(search.Search, "_measure", lambda *_: (1.0, 1.0))
  monkeypatch.setattr(search.Search, "_fits", lambda *_: True)
  found = search.Search(chip, 128, "forward", 60, lambda line: None)
  with futures.ThreadPoolExecutor(1) as pool:
    found.run(pool)
  assert len(found.cycles) > 1
  assert {(blocks.part, blocks.undivided) for blocks in found.cycles} == {
    (1024, chip == "v6e")
  }


def test_a_row_holds_the_blocks():
  blocks = Blocks(512, 512, 256, 128, 3, 1, True, 256, True)
  row = ("v5e", 64, "forward", *search.row(blocks, (10.4, 20.0)))
  assert of_row(row) == blocks
  assert row[-2:] == (10, 20)
