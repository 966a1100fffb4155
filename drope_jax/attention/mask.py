"""Which key each query may see."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from drope_jax.axes import Array


class Mask(NamedTuple):
  """Causal visibility, within a window and a segment.

  Keys have positions 0 to T - 1, and a query sees those up to its own.

  Attributes:
    offset_B: int32 position of each row's first query, at most T - S. None: 0,
      which lets a backend skip what lies above the diagonal.
    window: int32 scalar or None. A query sees this many keys up to itself. A
      Python integer is known to a backend when it is compiled.
    q_segment_BS: int32 ids, or None; with `k_segment_BT` or not at all. A query
      sees keys of its own segment alone: without positional embeddings nothing
      else isolates packed documents. Padding is a segment of its own.
    k_segment_BT: see `q_segment_BS`.
  """

  offset_B: Array | None = None
  window: Array | int | None = None
  q_segment_BS: Array | None = None
  k_segment_BT: Array | None = None

  @property
  def window_is_traced(self) -> bool:
    """Whether there is a window that only the device knows."""
    return not isinstance(self.window, int | np.integer | None)

  def position_BS(self, rows: Array) -> Array:
    """Returns the positions of queries, by their indices; B may be 1."""
    if self.offset_B is None:
      return rows[None]
    return rows[None] + self.offset_B[:, None]

  def distance_BST(self, rows: Array, keys: Array) -> Array:
    """Returns query position minus key position, by indices; B may be 1."""
    return self.position_BS(rows)[..., None] - keys

  def visible_BST(self, rows: Array, keys: Array) -> Array:
    """Returns true where the query may see the key, by indices; B may be 1."""
    distance_BST = self.distance_BST(rows, keys)
    visible_BST = distance_BST >= 0
    if self.window is not None:
      visible_BST &= distance_BST < self.window
    if self.q_segment_BS is not None:
      q_BS1 = jnp.asarray(self.q_segment_BS)[:, rows, None]
      k_B1T = jnp.asarray(self.k_segment_BT)[:, None, keys]
      visible_BST &= q_BS1 == k_B1T
    return visible_BST
