"""A teacher has a share of the objective."""

import pytest

from drope_jax.train.teacher import Teacher


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight):
  with pytest.raises(ValueError, match="above 0 and at most 1, got "):
    Teacher(weight)
