"""The tiles that a kernel visits, their order and their visible keys.

A tile is a block of queries times a block of keys. The grid has no step for a
tile that causality hides in every row. What a window, segments or an offset
hide is known on the device only; the kernel skips such a tile there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax.attention.mask import Mask
from drope_jax.axes import Array

HIDDEN, WHOLE, DIAGONAL, CUT, CUT_DIAGONAL, PARTIAL, DIVIDED = range(7)
"""The kind of a tile or of a part of one: no key is visible; all are; those on
and below the diagonal of a square are; the last two, less what a window or
segments hide; what the mask says, element by element; or, of a tile only, each
part has a kind of its own."""

ON_DIAGONAL = (DIAGONAL, CUT_DIAGONAL)

_MASKED = {WHOLE: CUT, DIAGONAL: CUT_DIAGONAL}
"""The code that a kernel without code for a kind runs instead: it applies masks
that hide nothing."""

FIRST, LAST, COMPLETE = 1, 2, 4
"""Flags of a visit: the first or the last that adds to one block of the main
output; the last that adds to its block of queries."""


class Visits(NamedTuple):
  """Tiles in order, as int32 arrays of equal length.

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
  """Returns the visits of one head, one block of queries after another.

  Args:
    shape: (S, T), multiples of `block`.
    block: (queries, keys) of a tile.
    causal: whether query s is at position s, so that hidden tiles are known.
  """
  q, k = _pairs(shape, block, causal)
  return _visits(np.zeros_like(q), q, k, main=q)


def by_key(
  shape: tuple[int, int],
  block: tuple[int, int],
  causal: bool,
  heads: int,
) -> Visits:
  """Returns the visits of a group's heads, one block of keys after another.

  Args:
    shape, block, causal: as in `by_query`.
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


def parts(
  visits: Visits, tile: tuple[int, int], part: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the blocks of queries and of keys of each visit's parts, in order.

  The parts of a tile follow each other, those of the same queries together.

  Args:
    visits: n of them.
    tile, part: (queries, keys).
  """
  rows, columns = tile[0] // part[0], tile[1] // part[1]
  row, column = (x.ravel() for x in np.mgrid[:rows, :columns])
  q = visits.q[:, None] * rows + row
  k = visits.k[:, None] * columns + column
  return q.ravel().astype(np.int32), k.ravel().astype(np.int32)


def kinds_Bn(
  q: np.ndarray, k: np.ndarray, block: tuple[int, int], mask: Mask
) -> Array:
  """Returns the int32 kinds of tiles or parts, for each row of the batch.

  Args:
    q, k: their blocks of queries and of keys, n of each.
    block: (queries, keys) of a tile or part.
    mask: its segments are padded to whole blocks.
  """
  first = q * block[0] - k * block[1]
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
    q_least, q_most = _extremes(mask.q_segment_BS, block[0], q)
    k_least, k_most = _extremes(mask.k_segment_BT, block[1], k)
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
  """Returns, for each visit, the latest one so far whose tile is not hidden.

  A hidden tile keeps the blocks of that one, so that it loads nothing.
  """
  n = jnp.arange(kinds_Bn.shape[1])
  return jax.lax.cummax(jnp.where(kinds_Bn == HIDDEN, 0, n), axis=1)


class Code(NamedTuple):
  """The kinds that a kernel has code for.

  Attributes:
    tile: of undivided tiles.
    part: of the parts of all other tiles; empty if there are none.
  """

  tile: tuple[int, ...]
  part: tuple[int, ...]

  def of_tiles(self, kinds_Bn: Array) -> Array:
    """Returns each tile's kind of code: `DIVIDED` if it is run by parts."""
    kinds_Bn = _with_code(kinds_Bn, self.tile or self.part)
    known = jnp.isin(kinds_Bn, jnp.asarray((HIDDEN, *self.tile)))
    return jnp.where(known, kinds_Bn, DIVIDED)

  def of_parts(self, kinds_Bn: Array) -> Array:
    """Returns each part's kind of code."""
    return _with_code(kinds_Bn, self.part)


def _with_code(kinds_Bn: Array, known: tuple[int, ...]) -> Array:
  """Returns the kinds, or where there is no code those with masks."""
  for kind, masked in _MASKED.items():
    if kind not in known:
      kinds_Bn = jnp.where(kinds_Bn == kind, masked, kinds_Bn)
  return kinds_Bn


def code(
  mask: Mask, tile: tuple[int, int], part: tuple[int, int], undivided: bool
) -> Code:
  """Returns the kinds that a kernel for such a mask needs code for.

  Where some kinds have masks, those without have no code of their own, except
  undivided tiles.

  Args:
    mask: only which of its fields are None matters.
    tile, part: (queries, keys).
    undivided: that of `Blocks`.
  """
  kinds, part_kinds = _possible(mask, tile), _possible(mask, part)
  if part == tile:
    return Code(kinds if undivided else _masked_only(kinds), ())
  if not undivided:
    return Code((), _masked_only(part_kinds))
  whole = tuple(kind for kind in kinds if kind in _MASKED)
  return Code(whole, () if whole == kinds else _masked_only(part_kinds))


def _masked_only(kinds: tuple[int, ...]) -> tuple[int, ...]:
  if CUT not in kinds:
    return kinds
  return tuple(kind for kind in kinds if kind not in _MASKED)


def _possible(mask: Mask, block: tuple[int, int]) -> tuple[int, ...]:
  square = block[0] == block[1]
  kinds = [WHOLE, DIAGONAL] if square else [WHOLE]
  if mask.window is not None or mask.q_segment_BS is not None:
    kinds += [CUT, CUT_DIAGONAL] if square else [CUT]
  if mask.offset_B is not None or not square:
    kinds.append(PARTIAL)
  return tuple(kinds)
