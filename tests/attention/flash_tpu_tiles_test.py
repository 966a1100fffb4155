"""A kernel has code for every kind of tile and part, and no more."""

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.attention.flash_tpu import tiles
from drope_jax.attention.mask import Mask

TILE, PART = (512, 512), (128, 128)
SHAPE = (1024, 1024)
SEGMENTS_BS = np.arange(1024)[None] // 300
MASKS = {
  "causal": Mask(),
  "window": Mask(window=jnp.int32(200)),
  "segments": Mask(q_segment_BS=SEGMENTS_BS, k_segment_BT=SEGMENTS_BS),
  "offset": Mask(offset_B=jnp.array([0, 70])),
}


def visible(mask):
  """Which keys each query of the batch's rows sees, element by element."""
  S, T = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None]
  offset = 0 if mask.offset_B is None else np.asarray(mask.offset_B)
  offset = np.reshape(offset, (-1, 1, 1))
  seen = S + offset >= T
  if mask.window is not None:
    seen &= S + offset - T < int(mask.window)
  if mask.q_segment_BS is not None:
    seen &= mask.q_segment_BS[:, :, None] == mask.k_segment_BT[:, None]
  return seen


@pytest.mark.parametrize("undivided", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_parts_say_what_is_visible_and_have_code(name, undivided):
  mask = MASKS[name]
  code = tiles.code(mask, TILE, PART, undivided)
  visits = tiles.by_query(SHAPE, TILE, causal=mask.offset_B is None)
  q, k = tiles.parts(visits, TILE, PART)
  kinds_Bn = np.asarray(code.of_parts(tiles.kinds_Bn(q, k, PART, mask)))
  seen = visible(mask)
  rows = np.broadcast_to(kinds_Bn, (len(seen), kinds_Bn.shape[1]))
  for row, kinds in zip(seen, rows, strict=True):
    for i, j, kind in zip(q, k, kinds, strict=True):
      part = row[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
      if kind == tiles.HIDDEN:
        assert not part.any()
      elif kind == tiles.WHOLE:
        assert part.all()
      elif kind == tiles.DIAGONAL:
        np.testing.assert_array_equal(part, np.tri(128, dtype=bool))
  of_tiles = tiles.kinds_Bn(visits.q, visits.k, TILE, mask)
  run = np.asarray(code.of_tiles(of_tiles))
  # Causality alone is divided unless a kernel has code for undivided tiles.
  assert bool(code.tile) == undivided
  assert (run == tiles.DIVIDED).any() == bool(code.part)
  if code.part:
    assert {*np.unique(kinds_Bn)} <= {tiles.HIDDEN, *code.part}
  assert {*np.unique(run)} <= {tiles.HIDDEN, tiles.DIVIDED, *code.tile}


@pytest.mark.parametrize("name", ["window", "segments"])
def test_a_mask_needs_two_kinds_of_parts(name):
  code = tiles.code(MASKS[name], TILE, PART, undivided=False)
  assert code == tiles.Code((), (tiles.CUT, tiles.CUT_DIAGONAL))
  code = tiles.code(MASKS[name], TILE, TILE, undivided=False)
  assert code == tiles.Code((tiles.CUT, tiles.CUT_DIAGONAL), ())


def test_the_parts_of_a_tile_cover_it_once():
  visits = tiles.by_key(SHAPE, TILE, causal=True, heads=2)
  q, k = tiles.parts(visits, TILE, PART)
  found = np.stack([q, k], 1).reshape(len(visits.q), -1, 2)
  for n, pairs in enumerate(found):
    i, j = 4 * visits.q[n], 4 * visits.k[n]
    want = {(i + a, j + b) for a in range(4) for b in range(4)}
    assert {tuple(pair) for pair in pairs.tolist()} == want
