"""Which attention a run has where its recipe leaves the choice."""

from drope_jax.attention import FlashTpu
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns


def resolve(
  name: str | FlashTpu, config: ModelConfig, dtype: str, platform: str
) -> str | FlashTpu:
  """Returns the attention backend that "auto" means on a kind of device.

  On TPUs our kernel; on GPUs the library's: cuDNN, or XLA for what cuDNN does
  not do.

  Args:
    name: a backend, which stays, or "auto".
    config: the model's.
    dtype: of activations.
    platform: "cpu", "gpu" or "tpu".
  """
  if name != "auto":
    return name
  match platform:
    case "tpu":
      return "flash_tpu"
    case "gpu":
      plan = patterns.layer_plan(config.positional, config.num_layers)
      biased = plan.slopes_array(config.num_heads) is not None
      return "xla" if biased or dtype == "float32" else "cudnn"
  return "blockwise"
