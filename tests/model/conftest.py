"""A tiny model in which no gain is one, no bias zero and no weight special."""

import jax
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig


@pytest.fixture(scope="session")
def config():
  """Grouped heads, biases, and a head_dim that is not width / heads."""
  return ModelConfig(
    vocab_size=48,
    num_layers=2,
    width=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_width=32,
    context_tokens=32,
    qkv_bias=True,
  )


@pytest.fixture(scope="session")
def random_params():
  """Returns a function from a config to weights that keep signals near one."""

  def leaf(path, shape, rng):
    x = rng.normal(size=shape)
    if path.endswith("gain"):
      x = 1 + 0.3 * x
    elif path.endswith("bias"):
      x = 0.3 * x
    elif path.endswith("kernel"):
      x = x / shape[-2] ** 0.5
    return np.float32(x)

  def params(config, seed=0):
    rng = np.random.default_rng(seed)
    shapes = trees.flatten(transformer.param_shapes(config))
    return trees.unflatten(
      {path: leaf(path, s.shape, rng) for path, s in shapes.items()}
    )

  return params


@pytest.fixture(scope="session")
def params(config, random_params):
  return random_params(config)


@pytest.fixture(scope="session")
def forward():
  """`transformer.forward`, compiled once for each config; in numpy."""
  compiled = jax.jit(
    transformer.forward, static_argnums=0, static_argnames="backend"
  )
  return lambda *args, **options: np.asarray(compiled(*args, **options))


@pytest.fixture(scope="session")
def tokens_BS(config):
  """Distinct tokens in each row, so that a token stands for its position."""
  rng = np.random.default_rng(0)
  rows = [rng.permutation(config.vocab_size)[:32] for _ in range(2)]
  return np.int32(np.stack(rows))
