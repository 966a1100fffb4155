"""What a training step computes, and what a device could at most.

MFU is quoted by two counts. The causal one has the scores that a causal model
needs, the non-causal one those of full squares, twice as many. Recomputation
counts in neither, nor does whatever is no matrix product.
"""

import re
from typing import NamedTuple

import jax

from drope_jax import trees
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns

# Dense bfloat16 products a second of one device, as its maker states them. Of
# the names that a device's kind has in whole words, the first counts.
_PEAKS = (
  ("TPU v6 lite", 918e12),
  ("TPU v6e", 918e12),
  ("TPU v5 lite", 197e12),
  ("TPU v5e", 197e12),
  ("TPU v5p", 459e12),
  ("TPU v5", 459e12),
  ("TPU v4", 275e12),
  ("B200", 2250e12),
  ("H200", 989e12),
  ("H100 PCIe", 756e12),
  ("H100 NVL", 835e12),
  ("H100", 989e12),
  ("A100", 312e12),
  ("L40S", 362e12),
  ("L4", 121e12),
)


class Flops(NamedTuple):
  """Operations of training on one token, forward and backward."""

  causal: float
  noncausal: float


def of_token(config: ModelConfig, context_tokens: int) -> Flops:
  """Returns the operations a token, in sequences of `context_tokens`."""
  S = context_tokens
  shapes = trees.flatten(transformer.param_shapes(config))
  weights = sum(x.size for path, x in shapes.items() if path.endswith("kernel"))
  if config.tied_embeddings:
    weights += config.vocab_size * config.width
  plan = patterns.layer_plan(config.positional, config.num_layers)
  windows = plan.windows or (None,) * config.num_layers
  # Queries before the window is full see 1, 2, ... keys.
  seen = [min(window or S, S) for window in windows]
  pairs = sum(w * (w + 1) / 2 + (S - w) * w for w in seen)
  # Two products forward, four backward, of two operations a multiplication.
  width = 12 * config.num_heads * config.head_dim
  return Flops(
    6 * weights + width * pairs / S,
    6 * weights + width * S * config.num_layers,
  )


def peak(device: jax.Device) -> float | None:
  """Returns a device's bfloat16 operations a second, None if not known."""
  kind = device.device_kind
  named = (p for name, p in _PEAKS if re.search(rf"\b{name}\b", kind))
  return next(named, None)
