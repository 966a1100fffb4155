"""Which key each query may see."""

from typing import NamedTuple

from drope_jax.axes import Array


class Mask(NamedTuple):
  """Causal visibility, by position, segment and window.

  Attributes:
    q_pos_BS: int32 positions of the queries, increasing along a row.
    k_pos_BT: int32 positions of the keys, seen at their own position and
      after. None: keys are the queries' own tokens (T = S), so that a backend
      may skip what lies above the diagonal.
    segment_BS: int32 ids of the queries' own tokens, or None; needs
      `k_pos_BT` to be None. A query sees its own segment alone: without
      positional embeddings nothing else isolates packed documents.
    window: int32 scalar or None. A query sees this many keys up to itself.
  """

  q_pos_BS: Array
  k_pos_BT: Array | None = None
  segment_BS: Array | None = None
  window: Array | None = None

  def distance_BST(self, rows: slice, keys: slice) -> Array:
    """Returns query position minus key position, of some rows and keys."""
    k_pos_BT = self.q_pos_BS if self.k_pos_BT is None else self.k_pos_BT
    return self.q_pos_BS[:, rows, None] - k_pos_BT[:, None, keys]

  def visible_BST(self, rows: slice, keys: slice) -> Array:
    """Returns true where the query may see the key."""
    distance_BST = self.distance_BST(rows, keys)
    visible_BST = distance_BST >= 0
    if self.window is not None:
      visible_BST &= distance_BST < self.window
    if self.segment_BS is not None:
      visible_BST &= (
        self.segment_BS[:, rows, None] == self.segment_BS[:, None, keys]
      )
    return visible_BST
