"""Factors a channel pair: transformers' longrope, and what lies beyond it."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.positional import LongRope, RescaledRope, Rope

D, THETA, TRAINED = 16, 2e4, 64
SHORT = (1.0, 1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0)
LONG = (1.0, 1.05, 1.5, 3.0, 7.0, 20.0, 40.0, 63.5)
SCHEME = LongRope(THETA, SHORT, LONG, TRAINED, 1.2)


@pytest.mark.parametrize("attention_factor", [None, 1.2])
@pytest.mark.parametrize("length", [TRAINED, TRAINED + 1])
def test_longrope_is_transformers_at_either_length(length, attention_factor):
  transformers = pytest.importorskip("transformers")
  rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
  config = transformers.LlamaConfig(
    hidden_size=4 * D,
    num_attention_heads=4,
    max_position_embeddings=16 * TRAINED,
    rope_parameters={
      "rope_type": "longrope",
      "rope_theta": THETA,
      "short_factor": list(SHORT),
      "long_factor": list(LONG),
      "original_max_position_embeddings": TRAINED,
      "attention_factor": attention_factor,
    },
  )
  freq_F, theirs = rope_utils.ROPE_INIT_FUNCTIONS["longrope"](
    config, "cpu", seq_len=length
  )
  # The LongRoPE paper's, for 16 times the context.
  default = math.sqrt(1 + math.log(16) / math.log(TRAINED))
  ours = LongRope(THETA, SHORT, LONG, TRAINED, attention_factor or default)
  fixed = ours.at(length)
  np.testing.assert_allclose(fixed.frequencies(D), freq_F.numpy(), rtol=1e-6)
  assert fixed.attention_factor == pytest.approx(theirs, rel=1e-12)


def test_it_rotates_by_the_list_of_the_length_it_is_given():
  for length, factors in ((TRAINED, SHORT), (TRAINED + 1, LONG)):
    pos_BS = jnp.arange(length)[None]
    fixed = RescaledRope(THETA, factors, 1.2)
    assert SCHEME.at(length) == fixed
    np.testing.assert_array_equal(
      SCHEME.rotation(pos_BS, D), fixed.rotation(pos_BS, D)
    )


def test_each_pair_has_its_own_factor():
  plain_F = Rope(THETA).frequencies(D)
  scaled_F = RescaledRope(THETA, LONG).frequencies(D)
  np.testing.assert_allclose(plain_F / scaled_F, LONG, rtol=1e-6)
  ones = RescaledRope(THETA, (1.0,) * 8)
  np.testing.assert_array_equal(ones.frequencies(D), plain_F)


def test_a_huge_factor_drops_a_pairs_positions():
  factors = (1.0,) * 4 + (1e30,) * 4
  scheme = RescaledRope(THETA, factors)
  table_2SD = scheme.rotation(jnp.arange(10**6)[None], D)[0]
  cos_SF, sin_SF = table_2SD[0, :, 4:8], table_2SD[1, :, 12:]
  np.testing.assert_array_equal(cos_SF, 1)
  assert np.abs(sin_SF).max() < 1e-20
  assert np.abs(table_2SD[1, :, 8:12]).max() > 0.9, "nothing rotates"


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (RescaledRope, r"RescaledRope needs factors.*got none\. 1 leaves"),
    (lambda: RescaledRope(1e4, (1.0, 0.0)), r"above 0.*got 0\.0"),
    (lambda: RescaledRope(1e4, (math.nan,)), r"finite.*got nan"),
    (lambda: RescaledRope(1.0, (1.0,)), r"theta above 1, got 1\.0"),
    (lambda: RescaledRope(1e4, (1.0,), 0.0), r"attention_factor.*got 0\.0"),
    (
      lambda: RescaledRope(1e4, (1.0,)).frequencies(D),
      r"pair, 8 at head_dim 16, got 1\. Give as many",
    ),
    (lambda: LongRope(0.5, SHORT, LONG), r"LongRope.*theta above 1, got 0\.5"),
    (lambda: LongRope(1e4, SHORT), r"LongRope needs long_factor.*got none"),
    (lambda: LongRope(1e4, SHORT, LONG[1:]), r"got 8 and 7\. Give one"),
    (lambda: LongRope(1e4, SHORT, LONG, 0), r"trained_tokens.*got 0"),
    (
      lambda: LongRope(1e4, SHORT, LONG, 1, math.inf),
      r"attention_factor.*got inf",
    ),
  ],
)
def test_bad_settings_are_refused_with_what_to_do(make, message):
  with pytest.raises(ValueError, match=message):
    make()
