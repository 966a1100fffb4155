"""Which blocks a kernel takes where none are given."""

from typing import Literal

from absl import logging
import jax

from drope_jax.attention.flash_tpu import block_table
from drope_jax.attention.flash_tpu.units import Blocks

_CHIPS = {"v5 lite": "v5e", "v5e": "v5e", "v5": "v5p", "v6": "v6e"}
"""By what a device's kind contains; the first that fits."""


def chip(device: jax.Device) -> str | None:
  """Returns a device's chip, as the table names it; None: it is not there."""
  kind = device.device_kind
  return next((_CHIPS[part] for part in _CHIPS if part in kind), None)


def nearest(
  chip: str | None, head_dim: int, direction: Literal["forward", "backward"]
) -> Blocks:
  """Returns the table's blocks for a chip and a size of head.

  For a chip or a size that is not in the table, those of v5e or of the nearest
  size; the log says so.
  """
  rows = [row for row in block_table.ROWS if row[2] == direction]
  known = chip if any(row[0] == chip for row in rows) else "v5e"
  rows = [row for row in rows if row[0] == known]
  found = min(rows, key=lambda row: abs(row[1] - head_dim))
  if found[:2] != (chip, head_dim):
    logging.log_first_n(
      logging.INFO,
      "flash_tpu has no blocks for heads of %d on %s: it takes those of %d on "
      "%s. tools/tune_attention.py finds better ones.",
      1,
      head_dim,
      chip,
      found[1],
      known,
    )
  return Blocks(*found[3:10])
