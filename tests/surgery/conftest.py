"""A tiny model to operate on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Rope


@pytest.fixture(scope="module")
def base() -> ModelConfig:
  """The model before a surgery."""
  return ModelConfig(
    vocab_size=32,
    num_layers=2,
    width=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_width=32,
    context_tokens=16,
    positional=Rope(100.0),
  )


@pytest.fixture(scope="module")
def params(base):
  """Weights of `base`, large enough that positions move the logits."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype),
    transformer.param_shapes(base),
  )
