"""The layout of the DroPE paper's repository.

Its models are Llama or Qwen2 with attention layers of their own: without
positions in any layer, with norms over all heads jointly. They run with that
repository's code alone.

Source: github.com/SakanaAI/DroPE, custom_models/drope.py and attention.py.
"""

from typing import Any

import numpy as np

from drope_jax.checkpoint.formats import families, hf_architecture
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope


def choose(config: ModelConfig) -> str:
  """Returns the model_type that holds `config`.

  Raises:
    ValueError: it does not hold the model, and why.
  """
  layers = hf_architecture.Layers.of(config)
  reason = None
  if set(layers.schemes) != {Nope()}:
    reason = "positions in some layers"
  elif layers.sizes:
    reason = "windows"
  elif config.qk_norm != "none" and config.qk_norm_scope != "joint":
    reason = "a QK norm per head"
  elif config.norm_placement != "pre" or config.layer_groups:
    reason = "layers that differ from Llama's"
  if reason:
    raise ValueError(
      "The layout of the paper's repository has no positions, no windows and "
      f"norms over all heads jointly, got {reason}. Use --format hf."
    )
  return f"{_base(config)}_drope"


def config_json(config: ModelConfig) -> dict[str, Any]:
  """Returns config.json's fields, but for those of the tokenizer."""
  model_type = choose(config)
  norms = "" if config.qk_norm == "none" else f"{config.qk_norm}_norm_"
  return hf_architecture.config_json(config, _base(config)) | {
    "architectures": [families.FAMILIES[model_type].architecture],
    "model_type": model_type,
    "attention_type": f"{norms}nope",
    # Nothing is rotated, so that this is without effect.
    "rope_scaling": None,
    # All of what logits are multiplied by, 1 / sqrt(D) with it.
    "softmax_scale": config.logit_scale * config.head_dim**-0.5,
  }


def unused_norm(config: ModelConfig) -> tuple[str, ...]:
  """Returns the gains that the file must hold and the model does not apply.

  The repository's layers have both norms where they have one.
  """
  if config.qk_norm not in ("q", "k"):
    return ()
  other = "k" if config.norms_q else "q"
  name = families.FAMILIES[choose(config)].names[
    f"layers/attention/{other}_norm/gain"
  ]
  return tuple(name.format(n) for n in range(config.num_layers))


def unused_gains(config: ModelConfig, dtype: np.dtype) -> dict[str, np.ndarray]:
  """Returns ones for the tensors of `unused_norm`."""
  heads = config.num_kv_heads if config.norms_q else config.num_heads
  ones = np.ones(heads * config.head_dim, dtype)
  return {name: ones for name in unused_norm(config)}


def _base(config: ModelConfig) -> str:
  return "qwen2" if config.qkv_bias else "llama"
