"""ALiBi's slopes against its paper; its logits are attend_test's."""

import numpy as np
import pytest

from drope_jax.positional import Alibi


def test_slopes_of_eight_heads_are_the_papers():
  # Section 3: "for models with 8 heads, 1/2^1, 1/2^2, ..., 1/2^8".
  np.testing.assert_array_equal(
    Alibi().bias_slopes(8), 0.5 ** np.arange(1.0, 9.0)
  )


@pytest.mark.parametrize("num_heads", [1, 2, 4, 16])
def test_slopes_of_a_power_of_two_are_a_geometric_sequence(num_heads):
  slopes_H = Alibi().bias_slopes(num_heads)
  start = 2.0 ** (-8 / num_heads)
  np.testing.assert_allclose(
    slopes_H, start ** np.arange(1, num_heads + 1), rtol=1e-6
  )


@pytest.mark.parametrize(
  ("num_heads", "want_H"),
  [
    # Four heads' slopes, then the first, third, ... of eight heads'.
    (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),
    # Eight heads', then those of sixteen: the paper's footnote on 12 heads.
    (12, [*(2.0**-i for i in range(1, 9)), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
  ],
)
def test_other_head_counts_take_every_other_slope_of_the_next(
  num_heads, want_H
):
  np.testing.assert_allclose(Alibi().bias_slopes(num_heads), want_H, rtol=1e-6)


def test_q_and_k_are_not_rotated():
  assert Alibi().rotation(np.zeros((1, 4)), 8) is None
