"""A device's kind names its chip, for blocks, peaks and topologies alike."""

import pytest

from drope_jax import tpus
from drope_jax.attention.flash_tpu import block_table
from drope_jax.perf import chips, flops
from drope_jax.plan import slices


@pytest.mark.parametrize(
  ("kind", "chip"),
  [
    ("TPU v4", "v4"),
    ("TPU v5 lite", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v6 lite", "v6e"),
    ("TPU v3", None),
    ("cpu", None),
  ],
)
def test_a_kind_is_of_one_chip(kind, chip):
  assert tpus.chip(kind) == chip


def test_every_table_is_of_chips_that_have_a_kind():
  assert slices.CHIPS.keys() == tpus.KINDS.keys()
  assert all(flops.peak(kind) for of in tpus.KINDS.values() for kind in of)
  assert chips.CORES.keys() <= tpus.KINDS.keys()
  assert {row[0] for row in block_table.ROWS} <= tpus.KINDS.keys()
