"""The scale of a query's logits by its position."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.positional import (
  Alibi,
  LogScaled,
  Nope,
  Pattern,
  Rope,
  log_scaled,
)

POS_BS = jnp.asarray([[0, 7, 8, 63, 511]])


def test_the_scale_is_the_logarithm_beyond_the_trained_context():
  scale_BS = LogScaled(Nope(), trained_tokens=8, slope=0.25).query_scale(POS_BS)
  want = [1, 1, *(1 + 0.25 * math.log(i / 8) for i in (9, 64, 512))]
  np.testing.assert_allclose(scale_BS, [want], rtol=1e-6)
  assert scale_BS.dtype == jnp.float32


def test_without_a_slope_it_is_log_n():
  scale_BS = LogScaled(Nope(), trained_tokens=8).query_scale(POS_BS)
  want = [1, 1, *(math.log(i) / math.log(8) for i in (9, 64, 512))]
  np.testing.assert_allclose(scale_BS, [want], rtol=1e-6)


def test_the_rest_is_the_scheme_within():
  rope, alibi = LogScaled(Rope()), LogScaled(Alibi())
  assert log_scaled.unscaled(rope) == log_scaled.unscaled(Rope()) == Rope()
  np.testing.assert_array_equal(
    rope.rotation(POS_BS, 8), Rope().rotation(POS_BS, 8)
  )
  np.testing.assert_array_equal(alibi.bias_slopes(4), Alibi().bias_slopes(4))
  with pytest.raises(ValueError, match="even head_dim"):
    rope.check(15)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: LogScaled(Pattern((Rope(),))), r"one scheme, got Pattern.*wrap"),
    (lambda: LogScaled(LogScaled()), r"without a scale of its own.*Give its"),
    (lambda: LogScaled(trained_tokens=1), r"at least 2, got 1\. Give the"),
    (lambda: LogScaled(slope=-0.1), r"slope of at least 0, or None, got -0\.1"),
    (lambda: LogScaled(slope=math.inf), r"finite slope.*got inf"),
  ],
)
def test_bad_settings_are_refused_with_what_to_do(make, message):
  with pytest.raises(ValueError, match=message):
    make()
