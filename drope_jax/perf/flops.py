"""What training and inference compute, and what a device could at most.

MFU is quoted by two counts. The causal one has the scores that a causal model
needs, the non-causal one those of full squares, twice as many. Recomputation
counts in neither, nor does whatever is no matrix product.
"""

import re
from typing import NamedTuple

import jax

from drope_jax import parameters, trees
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
  """Operations on one token, by both counts."""

  causal: float
  noncausal: float


def of_token(
  config: ModelConfig,
  context_tokens: int,
  *,
  frozen: int = 0,
  adapters: int = 0,
  teacher: ModelConfig | None = None,
) -> Flops:
  """Returns training's operations a token, in texts of `context_tokens`.

  Args:
    config: the model's.
    context_tokens: of a text.
    frozen: weights of matrix products that have no gradients.
    adapters: weights of matrix products beside the model's.
    teacher: config of the model that reads the same texts, forward alone.
  """
  own = of_forward(config, context_tokens)
  others = (0.0, 0.0)
  if teacher is not None:
    others = of_forward(teacher, context_tokens)
  more = 6 * adapters - 2 * frozen
  return Flops(*(3 * x + y + more for x, y in zip(own, others, strict=True)))


def of_forward(config: ModelConfig, context_tokens: int) -> Flops:
  """Returns those of reading, in texts of `context_tokens`, with all logits."""
  S = context_tokens
  weights = _products(config)
  # Queries before the window is full see 1, 2, ... keys.
  pairs = sum(w * (w + 1) / 2 + (S - w) * w for w in _seen(config, S))
  # Two products, of two operations a multiplication.
  width = 4 * config.num_heads * config.head_dim
  return Flops(
    2 * weights + width * pairs / S,
    2 * weights + width * S * config.num_layers,
  )


def of_prefill(config: ModelConfig, context_tokens: int) -> float:
  """Returns the operations of reading one text, by the causal count.

  Logits are those of the last token alone.
  """
  head = 2 * config.vocab_size * config.width
  forward = of_forward(config, context_tokens).causal
  return context_tokens * (forward - head) + head


def of_decoding(config: ModelConfig, context_tokens: int) -> float:
  """Returns those of one more token of a text of `context_tokens`."""
  weights = _products(config)
  width = 4 * config.num_heads * config.head_dim
  return 2 * weights + width * sum(_seen(config, context_tokens))


def _products(config: ModelConfig) -> int:
  """Returns a token's multiplications by weights, those of the head with it."""
  shapes = trees.flatten(transformer.param_shapes(config))
  return sum(shapes[path].size for path in parameters.multiplied(shapes))


def _seen(config: ModelConfig, context_tokens: int) -> list[int]:
  """Returns how many tokens the last one sees, of each layer."""
  plan = patterns.layer_plan(config.positional, config.num_layers)
  windows = plan.windows or (None,) * config.num_layers
  return [min(window or context_tokens, context_tokens) for window in windows]


def peak(device: jax.Device) -> float | None:
  """Returns a device's bfloat16 operations a second, None if not known."""
  kind = device.device_kind
  named = (p for name, p in _PEAKS if re.search(rf"\b{name}\b", kind))
  return next(named, None)
