"""FLOPs of training and inference, and the peak FLOP/s of devices.

MFU is quoted by two counts. The causal count has the attention scores that a
causal model needs; the non-causal count has full squares, twice as many. Both
count matrix products only, and no recomputation.
"""

import re
from typing import NamedTuple

from drope_jax import parameters, tpus, trees
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns

# Dense bfloat16 FLOP/s of one device, by its maker's data sheet. Of GPUs the
# first name that is a whole word of a device's kind counts.
_TPUS = {"v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12}
_GPUS = (
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
  """FLOPs for one token, by both counts."""

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
  """Returns the FLOPs of training on one token.

  Args:
    config: the model's.
    context_tokens: of a sequence.
    frozen: weights of matrix products that have no gradients.
    adapters: weights of matrix products that are not the model's.
    teacher: config of a model that runs forward on the same sequences.
  """
  own = of_forward(config, context_tokens)
  others = (0.0, 0.0)
  if teacher is not None:
    others = of_forward(teacher, context_tokens)
  more = 6 * adapters - 2 * frozen
  return Flops(*(3 * x + y + more for x, y in zip(own, others, strict=True)))


def of_forward(config: ModelConfig, context_tokens: int) -> Flops:
  """Returns the FLOPs of a forward pass for one token, logits included.

  Args:
    config: the model's.
    context_tokens: of a sequence.
  """
  S = context_tokens
  weights = _products(config)
  # The first w queries see 1, 2, ..., w keys.
  pairs = sum(w * (w + 1) / 2 + (S - w) * w for w in _seen(config, S))
  # Two products, two FLOPs a multiply-add.
  width = 4 * config.num_heads * config.head_dim
  return Flops(
    2 * weights + width * pairs / S,
    2 * weights + width * S * config.num_layers,
  )


def of_prefill(config: ModelConfig, context_tokens: int) -> float:
  """Returns the FLOPs of one sequence's prefill, by the causal count.

  Logits are computed for the last token only.
  """
  head = 2 * config.vocab_size * config.width
  forward = of_forward(config, context_tokens).causal
  return context_tokens * (forward - head) + head


def of_decoding(config: ModelConfig, context_tokens: int) -> float:
  """Returns the FLOPs of decoding a token at the end of `context_tokens`."""
  weights = _products(config)
  width = 4 * config.num_heads * config.head_dim
  return 2 * weights + width * sum(_seen(config, context_tokens))


def _products(config: ModelConfig) -> int:
  """Returns the multiply-adds for one token, those of the head included."""
  shapes = trees.flatten(transformer.param_shapes(config))
  return sum(shapes[path].size for path in parameters.multiplied(shapes))


def _seen(config: ModelConfig, context_tokens: int) -> list[int]:
  """Returns how many keys the last query sees, for each layer."""
  plan = patterns.layer_plan(config.positional, config.num_layers)
  windows = plan.windows or (None,) * config.num_layers
  return [min(window or context_tokens, context_tokens) for window in windows]


def peak(kind: str) -> float | None:
  """Returns the peak bfloat16 FLOP/s of a kind of device, or None if unknown.

  Args:
    kind: `jax.Device.device_kind`.
  """
  if (chip := tpus.chip(kind)) is not None:
    return _TPUS[chip]
  named = (p for name, p in _GPUS if re.search(rf"\b{name}\b", kind))
  return next(named, None)
