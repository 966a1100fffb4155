"""The two layouts of rotary pairs are each other's permutation."""

import hypothesis
from hypothesis import strategies as st
import numpy as np

from drope_jax.checkpoint.formats import rope_layout
from drope_jax.checkpoint.formats.tensors import Tensor
from tests.checkpoint.formats import rope

SHAPES = st.tuples(
  st.integers(1, 4), st.integers(1, 4).map(lambda n: 2 * n), st.integers(1, 3)
)


@hypothesis.given(SHAPES, st.data())
def test_there_and_back_is_the_identity(shape, data):
  heads, head_dim, width = shape
  rng = np.random.default_rng(0)
  for rows in (
    rng.normal(size=(heads * head_dim, width)),
    rng.normal(size=heads * head_dim),
  ):
    half = rope_layout.to_half_split(rows, head_dim)
    back = rope.to_interleaved(half, head_dim)
    np.testing.assert_array_equal(back, rows)
    tensor = Tensor(rows.shape, rows.dtype, lambda a, b, x=rows: x[a:b])
    ours = rope_layout.in_order(tensor, rope_layout.interleaved(head_dim))
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    np.testing.assert_array_equal(ours.rows(start, stop), half[start:stop])


def test_leading_pairs_move_apart_and_the_others_close_up():
  # Their pairs are (0, 2) and (1, 3) of eight channels; ours (0, 4), (1, 5).
  order_D = rope_layout.leading(8, 2)
  np.testing.assert_array_equal(order_D, [0, 1, 4, 5, 2, 3, 6, 7])
  moved = rope_layout.reordered(np.arange(16), order_D)
  np.testing.assert_array_equal(moved, [*order_D, *(8 + order_D)])


def test_pairs_move_within_their_head():
  half = rope_layout.to_half_split(np.arange(8), 4)
  np.testing.assert_array_equal(half, [0, 2, 1, 3, 4, 6, 5, 7])


def test_scores_are_those_of_metas_rotation():
  """q and k rotated by complex multiplication, as in Meta's code."""
  D, position = 6, 5
  rng = np.random.default_rng(0)
  q_D, k_D = rng.normal(size=(2, D))
  omega_F = 1e4 ** (-np.arange(0, D, 2) / D)

  def metas(x_D, pos):
    x_F = x_D[0::2] + 1j * x_D[1::2]
    return x_F * np.exp(1j * pos * omega_F)

  def ours(x_D, pos):
    a_F, b_F = np.split(rope_layout.to_half_split(x_D, D), 2)
    cos_F, sin_F = np.cos(pos * omega_F), np.sin(pos * omega_F)
    return np.concatenate(
      [a_F * cos_F - b_F * sin_F, b_F * cos_F + a_F * sin_F]
    )

  want = np.real(metas(q_D, position) @ np.conj(metas(k_D, 2)))
  got = ours(q_D, position) @ ours(k_D, 2)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  assert abs(want - q_D @ k_D) > 0.1, "the rotation does nothing"
