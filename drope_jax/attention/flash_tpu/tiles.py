"""The order in which a kernel visits tiles, and what each tile shows.

A tile is a block of queries against a block of keys. Tiles that causality
hides in every row are not visited; what a window, segments or an offset hide
is known on the device alone, and such a tile is passed over there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax.attention.mask import Mask
from drope_jax.axes import Array

HIDDEN, WHOLE, DIAGONAL, CUT, CUT_DIAGONAL, PARTIAL = range(6)
"""A tile's kind: no key is seen, all are, or those on and below the diagonal of
a square tile; the same two less what a window or segments hide; or what the
mask says element by element."""

ON_DIAGONAL = (DIAGONAL, CUT_DIAGONAL)

FIRST, LAST, COMPLETE = 1, 2, 4
"""A visit's flags: the first or last of those that add to one block of the
kernel's main output; the last to add to its block of queries."""


class Visits(NamedTuple):
  """One tile after another, as int32 arrays of one length.

  Attributes:
    head: the query head within its group.
    q, k: the tile's blocks.
    flags: of `FIRST`, `LAST` and `COMPLETE`.
  """

  head: np.ndarray
  q: np.ndarray
  k: np.ndarray
  flags: np.ndarray


def by_query(
  shape: tuple[int, int], block: tuple[int, int], causal: bool
) -> Visits:
  """Returns the visits of one head that finish a block of queries at a time.

  Args:
    shape: (S, T), multiples of `block`.
    block: (queries, keys) of a tile.
    causal: whether query s is at position s, so that causality is known.
  """
  q, k = _pairs(shape, block, causal)
  return _visits(np.zeros_like(q), q, k, main=q)


def by_key(
  shape: tuple[int, int],
  block: tuple[int, int],
  causal: bool,
  heads: int,
) -> Visits:
  """Returns visits of a group's heads that finish a block of keys at a time.

  Args:
    shape, block, causal: as `by_query` takes them.
    heads: query heads that share the keys.
  """
  q, k = _pairs(shape, block, causal)
  head = np.repeat(np.arange(heads), len(q))
  q, k = np.tile(q, heads), np.tile(k, heads)
  order = np.lexsort((q, head, k))
  head, q, k = head[order], q[order], k[order]
  return _visits(head, q, k, main=k)


def _pairs(shape, block, causal):
  q, k = np.mgrid[: shape[0] // block[0], : shape[1] // block[1]]
  last_query = (q + 1) * block[0] - 1
  seen = (k * block[1] <= last_query) | (not causal)
  return q[seen], k[seen]


def _visits(head, q, k, main) -> Visits:
  changes = np.flatnonzero(np.diff(main, prepend=-1, append=-1))
  flags = np.zeros(len(q), np.int32)
  flags[changes[:-1]] |= FIRST
  flags[changes[1:] - 1] |= LAST
  last_of_queries = {
    pair: n for n, pair in enumerate(zip(head, q, strict=True))
  }
  flags[list(last_of_queries.values())] |= COMPLETE
  return Visits(*(x.astype(np.int32) for x in (head, q, k, flags)))


def kinds_Bn(visits: Visits, block: tuple[int, int], mask: Mask) -> Array:
  """Returns each visit's kind for each row, int32 of B (or 1) and n.

  Args:
    visits: n of them.
    block: (queries, keys) of a tile.
    mask: its segments are padded to whole blocks.
  """
  first = visits.q * block[0] - visits.k * block[1]
  first_Bn = jnp.asarray(first)[None]
  if mask.offset_B is not None:
    first_Bn = first_Bn + mask.offset_B[:, None]
  # Of query positions minus key positions in the tile.
  least_Bn, most_Bn = first_Bn - (block[1] - 1), first_Bn + (block[0] - 1)
  any_Bn, all_Bn = most_Bn >= 0, least_Bn >= 0
  cut_Bn = jnp.zeros_like(any_Bn)
  if mask.window is not None:
    any_Bn &= least_Bn < mask.window
    cut_Bn |= most_Bn >= mask.window
  if mask.q_segment_BS is not None:
    q_least, q_most = _extremes(mask.q_segment_BS, block[0], visits.q)
    k_least, k_most = _extremes(mask.k_segment_BT, block[1], visits.k)
    any_Bn &= (q_least <= k_most) & (k_least <= q_most)
    cut_Bn |= (q_least != k_most) | (k_least != q_most)
  on_diagonal_Bn = (first_Bn == 0) & (block[0] == block[1])
  shown_Bn = jnp.where(
    on_diagonal_Bn, jnp.where(cut_Bn, CUT_DIAGONAL, DIAGONAL), PARTIAL
  )
  shown_Bn = jnp.where(all_Bn, jnp.where(cut_Bn, CUT, WHOLE), shown_Bn)
  return jnp.where(any_Bn, shown_Bn, HIDDEN).astype(jnp.int32)


def _extremes(segment_BS, size, index):
  blocks_BnS = segment_BS.reshape(segment_BS.shape[0], -1, size)
  return blocks_BnS.min(-1)[:, index], blocks_BnS.max(-1)[:, index]


def latest_Bn(kinds_Bn: Array) -> Array:
  """Returns, for each visit, the latest one so far whose tile shows something.

  Blocks of that one are kept at hand, so that a hidden tile fetches nothing.
  """
  n = jnp.arange(kinds_Bn.shape[1])
  return jax.lax.cummax(jnp.where(kinds_Bn == HIDDEN, 0, n), axis=1)


def possible_kinds(mask: Mask, block: tuple[int, int]) -> tuple[int, ...]:
  """Returns the kinds that a kernel for such a mask must have code for."""
  square = block[0] == block[1]
  kinds = [WHOLE, DIAGONAL] if square else [WHOLE]
  if mask.window is not None or mask.q_segment_BS is not None:
    kinds += [CUT, CUT_DIAGONAL] if square else [CUT]
  if mask.offset_B is not None or not square:
    kinds.append(PARTIAL)
  return tuple(kinds)
