"""Which architecture holds a model exactly."""

from collections.abc import Sequence
import dataclasses

from drope_jax.checkpoint.formats.families import FAMILIES
from drope_jax.checkpoint.formats.hf_layers import Layers
from drope_jax.model.config import ModelConfig

STOCK = (
  "qwen2",
  "llama",
  "mistral",
  "qwen3",
  "smollm3",
  "olmoe",
  "olmo2",
  "olmo3",
  "seed_oss",
  "ernie4_5",
  "gemma2",
  "gemma3_text",
  "gpt2",
  "gpt_neox",
  "granite",
)
"""Of transformers, plainest first; Qwen2 needs biases: it is before Llama."""

PAPERS = ("qwen2_drope", "llama_drope")
"""Of the DroPE paper's repository."""


def choose(
  config: ModelConfig,
  preferred: Sequence[str] = (),
  required: str | None = None,
) -> str:
  """Returns the model_type of a stock architecture that holds `config`.

  A model without positions is exported as an architecture that can say so, if
  one holds it, and else as one that rotates by zero.

  Args:
    config: the model's.
    preferred: model types to take before others, as what it came from.
    required: the one that it must be.

  Raises:
    ValueError: there is none, and why.
  """
  if required is not None:
    if reason := misfit(config, required):
      raise ValueError(
        f"{FAMILIES[required].architecture} must hold the model exactly, but "
        f"got {reason}. Name another architecture, or none."
      )
    return required
  order = [*(name for name in preferred if name in STOCK), *STOCK]
  held = [name for name in order if misfit(config, name) is None]
  if not held:
    raise ValueError(_none_holds(config))
  # Of those that are alike, the first.
  return min(
    held, key=lambda name: FAMILIES[name].positions.rotates_by_zero(config)
  )


def choose_papers(config: ModelConfig) -> str:
  """Returns the model_type of the paper's repository that holds `config`.

  Raises:
    ValueError: it has none, and why.
  """
  reasons = {name: misfit(config, name) for name in PAPERS}
  for name, reason in reasons.items():
    if reason is None:
      return name
  reason = reasons["qwen2_drope" if config.qkv_bias else "llama_drope"]
  raise ValueError(
    "The layout of the paper's repository has no positions, no windows and "
    f'norms over all heads jointly, got {reason}. Use `format="hf"`.'
  )


def misfit(config: ModelConfig, model_type: str) -> str | None:
  """Returns why an architecture does not hold a config; None if it does."""
  for choice in FAMILIES[model_type].choices:
    if reason := choice.misfit(config):
      return reason
  return None


def _none_holds(config: ModelConfig) -> str:
  """Returns what the error says: the nearest architecture, and what to do."""
  if config.residual_scale != 1 or config.final_logit_scale != 1:
    nearest = "granite"
  elif config.norm_kind == "layer":
    nearest = "gpt_neox" if config.parallel_residual else "gpt2"
  elif config.norm_placement == "both":
    nearest = "gemma2" if config.qk_norm == "none" else "gemma3_text"
  elif config.norm_placement == "post":
    nearest = "olmo3" if Layers.of(config).sizes else "olmo2"
  elif config.qk_norm == "none":
    nearest = "smollm3"
  elif config.qk_norm_scope == "head":
    nearest = "qwen3"
  else:
    nearest = "olmoe"
  advice = "Export a checkpoint without that."
  by_head = dataclasses.replace(config, qk_norm="qk", qk_norm_scope="head")
  if nearest == "olmoe" and misfit(by_head, "qwen3") is None:
    advice = (
      "Add the norms by `drope surgery --qk-norm qk --qk-norm-scope head` and "
      "recalibrate."
    )
  if any(misfit(config, name) is None for name in PAPERS):
    advice = (
      'Use `format="sakana"`, the layout of the paper\'s repository, which '
      f"runs with its code. Or: {advice}"
    )
  return (
    f"No stock architecture holds this model: {FAMILIES[nearest].architecture}"
    f", the nearest, cannot, as it got {misfit(config, nearest)}. {advice}"
  )
