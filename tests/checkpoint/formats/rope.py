"""Meta's layout of q and k, which other formats have: the inverse of ours."""

import numpy as np


def to_interleaved(rows: np.ndarray, head_dim: int) -> np.ndarray:
  """Returns whole heads' channels (i, i + D/2), moved to (2i, 2i + 1)."""
  halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
  return halves.swapaxes(1, 2).reshape(rows.shape)
