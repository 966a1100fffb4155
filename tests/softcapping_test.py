"""Soft caps of logits."""

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax import softcapping

LOGITS = jnp.linspace(-90.0, 90.0, 37)


def test_capped_logits_are_near_small_ones_and_within_the_cap():
  capped = softcapping.cap(LOGITS, 30.0)
  assert float(jnp.abs(capped).max()) < 30
  np.testing.assert_allclose(
    softcapping.cap(LOGITS / 90, 30.0), LOGITS / 90, 1e-3
  )


def test_without_a_cap_logits_are_unchanged():
  assert softcapping.cap(LOGITS, None) is LOGITS


def test_the_slope_is_the_gradient():
  want = jax.vmap(jax.grad(lambda x: softcapping.cap(x, 30.0)))(LOGITS)
  got = softcapping.slope(softcapping.cap(LOGITS, 30.0), 30.0)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
