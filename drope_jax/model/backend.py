"""Which attention a model runs with on a device."""

import types

import jax
import jax.numpy as jnp

from drope_jax import attention
from drope_jax.attention import Need
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns

_PREFERRED = types.MappingProxyType(
  {"tpu": ("flash_tpu",), "gpu": ("cudnn", "xla")}
)


def resolve(
  choice: attention.Choice,
  config: ModelConfig,
  dtype: str,
  device: jax.Device,
  *,
  with_stats: bool = False,
  any_length: bool = False,
) -> attention.Choice:
  """Returns the backend that a choice means, with all its settings.

  "auto" is the first that honors the model, and statistics where they are
  wanted: on a TPU of our kernel and `blockwise`, on a GPU of cuDNN, XLA's
  products and `blockwise`. On a CPU it is `blockwise`. In float32, our kernel
  multiplies at full precision, and a GPU has no kernel.

  Args:
    choice: a backend, or "auto".
    config: the model's.
    dtype: of activations.
    device: one of those that run it.
    with_stats: whether `attention.Stats` are wanted.
    any_length: whether sequences may be so long that their logits must not be
      held whole, as XLA's products do.
  """
  if choice == "auto":
    preferred = [*_PREFERRED.get(device.platform, ()), "blockwise"]
    if not _cudnn_fits(config.head_dim, device):
      preferred = [name for name in preferred if name != "cudnn"]
    if any_length:
      preferred = [name for name in preferred if name != "xla"]
    choice = _first_able(preferred, config, dtype, with_stats)
  return attention.resolve(choice, device, config.head_dim)


def _cudnn_fits(head_dim: int, device: jax.Device) -> bool:
  """Returns whether cuDNN's attention has heads of that size on a GPU."""
  is_hopper = float(getattr(device, "compute_capability", 0)) >= 9
  return head_dim % 8 == 0 and head_dim <= (256 if is_hopper else 128)


def for_one_token(choice: attention.Choice) -> attention.Choice:
  """Returns the backend that decodes one token a row.

  Args:
    choice: for many tokens, resolved.
  """
  # A kernel's tiles have many queries. XLA's products have one, and split a
  # cache over devices without gathering it.
  divided = isinstance(choice, attention.Divided)
  return "blockwise" if divided or attention.is_kernel(choice) else choice


def _first_able(
  preferred: list[str], config: ModelConfig, dtype: str, with_stats: bool
) -> str:
  plan = patterns.layer_plan(config.positional, config.num_layers)
  positions = plan.shapes(config.head_dim, config.num_heads)
  needs = {
    Need.SLOPES: positions.slopes_H is not None,
    Need.BIAS: positions.bias_HT is not None,
    Need.SOFT_CAP: config.logit_soft_cap is not None,
    Need.STATS: with_stats,
    Need.FLOAT32: jnp.dtype(dtype) == jnp.float32,
  }
  wanted = {need for need, needed in needs.items() if needed}
  return next(
    name for name in preferred if wanted <= attention.BACKENDS[name].honors
  )
