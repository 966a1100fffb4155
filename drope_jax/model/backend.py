"""Which attention a model runs with on a device."""

import jax
import jax.numpy as jnp

from drope_jax import attention
from drope_jax.attention import Need
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns


def resolve(
  choice: attention.Choice,
  config: ModelConfig,
  dtype: str,
  device: jax.Device,
) -> attention.Choice:
  """Returns the backend that a choice means, with all its settings.

  "auto" is our kernel on a TPU, and `blockwise` on a CPU. On a GPU it is the
  first of cuDNN, XLA's products and `blockwise` that honours the model.

  Args:
    choice: a backend, or "auto".
    config: the model's.
    dtype: of activations.
    device: one of those that run it.
  """
  if choice == "auto":
    choice = _automatic(config, dtype, device.platform)
  return attention.resolve(choice, device, config.head_dim)


def _automatic(config: ModelConfig, dtype: str, platform: str) -> str:
  if platform == "tpu":
    return "flash_tpu"
  if platform != "gpu":
    return "blockwise"
  plan = patterns.layer_plan(config.positional, config.num_layers)
  positions = plan.shapes(config.head_dim, config.num_heads)
  needs = {
    Need.SLOPES: positions.slopes_H is not None,
    Need.BIAS: positions.bias_HT is not None,
    Need.SOFT_CAP: config.logit_soft_cap is not None,
    Need.FLOAT32: jnp.dtype(dtype) == jnp.float32,
  }
  wanted = {need for need, needed in needs.items() if needed}
  return next(
    name
    for name in ("cudnn", "xla", "blockwise")
    if wanted <= attention.BACKENDS[name].honours
  )
