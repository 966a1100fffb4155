"""A trimmed vocabulary keeps the logits of the tokens that it has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.model import transformer
from drope_jax.surgery import vocabulary

IDS = (0, 3, 4, 17, 31)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_kept_tokens_do_not_change(base, tied):
  config = dataclasses.replace(base, tied_embeddings=tied)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype),
    transformer.param_shapes(config),
  )
  trimmed, small = vocabulary.trim_vocabulary(config, params, IDS)
  assert trimmed == dataclasses.replace(config, vocab_size=5)
  tokens = np.array([[1, 4, 0, 2]])
  before = transformer.forward(config, params, np.array(IDS)[tokens])
  after = transformer.forward(trimmed, small, tokens)
  np.testing.assert_allclose(after, before[..., np.array(IDS)], rtol=1e-5)


@pytest.mark.parametrize("ids", [(), (0, 0), (0, 32), (-1, 0)])
def test_ids_that_the_model_does_not_have_are_refused(base, ids):
  with pytest.raises(ValueError, match=r"different ids in 0\.\.31, got"):
    vocabulary.trim_vocabulary(base, {}, ids)
