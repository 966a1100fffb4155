"""Which stock architecture holds a model exactly, and its config.json."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from drope_jax.checkpoint.formats import rope_parameters
from drope_jax.checkpoint.formats.families import FAMILIES
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Alibi, Nope, Scheme
from drope_jax.positional import pattern as patterns

STOCK = ("qwen2", "llama", "mistral", "qwen3", "smollm3")
"""Plainest first; Qwen2 needs biases, and so goes before Llama."""


@dataclasses.dataclass(frozen=True)
class Layers:
  """What a config says of each layer.

  Attributes:
    schemes: one a layer.
    windows: likewise; None where a layer sees all.
  """

  schemes: tuple[Scheme, ...]
  windows: tuple[int | None, ...]

  @classmethod
  def of(cls, config: ModelConfig) -> "Layers":
    """Returns a config's layers."""
    plan = patterns.layer_plan(config.positional, config.num_layers)
    schemes = patterns.layer_schemes(config.positional, config.num_layers)
    return cls(schemes, plan.windows or (None,) * config.num_layers)

  @property
  def rotary(self) -> tuple[Scheme, ...]:
    """The distinct schemes other than Nope."""
    return tuple(dict.fromkeys(s for s in self.schemes if s != Nope()))

  @property
  def sizes(self) -> tuple[int, ...]:
    """The distinct windows."""
    return tuple(dict.fromkeys(w for w in self.windows if w is not None))


def choose(
  config: ModelConfig,
  preferred: Sequence[str] = (),
  required: str | None = None,
) -> str:
  """Returns the model_type of an architecture that holds `config` exactly.

  Args:
    config: the model's.
    preferred: model types to take before others, as what it came from.
    required: the one that it must be.

  Raises:
    ValueError: there is none, and why.
  """
  if required is not None:
    if reason := misfit(config, required, neutral=True):
      raise ValueError(
        f"{FAMILIES[required].architecture} must hold the model exactly, but "
        f"got {reason}. Name another architecture, or none."
      )
    return required
  order = [*(name for name in preferred if name in STOCK), *STOCK]
  reasons = {name: misfit(config, name) for name in order}
  for name, reason in reasons.items():
    if reason is None:
      return name
  if config.qk_norm != "none" and config.qk_norm_scope == "joint":
    raise ValueError(
      "A stock architecture has QK norm over each head alone, got one over all "
      "heads jointly. Use --format sakana, the layout of the paper's "
      "repository, which runs with its code; or add the norms by "
      "`drope surgery --qk-norm-scope head` and recalibrate."
    )
  nearest = "qwen3" if config.qk_norm != "none" else "smollm3"
  raise ValueError(
    f"No stock architecture holds this model: {FAMILIES[nearest].architecture}"
    f", the nearest, cannot, as it got {reasons[nearest]}. Export a checkpoint "
    "without that."
  )


def misfit(
  config: ModelConfig, model_type: str, neutral: bool | None = None
) -> str | None:
  """Returns why an architecture does not hold a config; None if it does.

  Args:
    config: the model's.
    model_type: the architecture's.
    neutral: whether a model without any positions may leave with a rotation
      that turns nothing; by default for Qwen3 alone, as others leave as
      SmolLM3.
  """
  layers = Layers.of(config)
  family = FAMILIES[model_type]
  # transformers 5 refuses to load these two.
  if config.head_dim % 2:
    return f"an odd head_dim of {config.head_dim}"
  if model_type == "llama" and config.width % config.num_heads:
    return f"a width of {config.width}, no multiple of {config.num_heads} heads"
  if neutral is None:
    neutral = model_type == "qwen3"
  if config.norm_placement != "pre" or config.layer_groups:
    return "layers that differ from Llama's"
  normed = "layers/attention/q_norm/gain" in family.names
  if config.qk_norm == "none" and normed:
    return "no QK norm"
  if config.qk_norm != "none" and not normed:
    return "a QK norm"
  if normed and (config.qk_norm, config.qk_norm_scope) != ("qk", "head"):
    return f"a {config.qk_norm_scope} norm on {' and '.join(config.qk_norm)}"
  if config.qkv_bias and "layers/attention/q/bias" not in family.names:
    return "biases"
  if family.biases and not config.qkv_bias:
    return "no biases"
  if len(layers.rotary) > 1:
    return f"{len(layers.rotary)} kinds of positions"
  if Alibi() in layers.rotary:
    return "ALiBi"
  if Nope() in layers.schemes and "no_rope_layers" not in family.defaults:
    if layers.rotary:
      return "layers without positions beside layers with them"
    if not neutral:
      return "no positions"
  return _window_misfit(layers, family.defaults)


def config_json(config: ModelConfig, model_type: str) -> dict[str, Any]:
  """Returns config.json's fields, none of the tokenizer's set.

  Positions are in transformers 4's form, which transformers 5 reads as well.
  """
  family, layers = FAMILIES[model_type], Layers.of(config)
  rope = rope_parameters.NEUTRAL
  if layers.rotary:
    rope = rope_parameters.write(
      layers.rotary[0], config.head_dim, config.context_tokens
    )
  elif "no_rope_layers" in family.defaults:
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
  scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
  fields = {
    "architectures": [family.architecture],
    "model_type": model_type,
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "intermediate_size": config.mlp_width,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_dim,
    "hidden_act": "silu",
    "max_position_embeddings": config.context_tokens,
    "rms_norm_eps": config.norm_eps,
    "rope_theta": rope["rope_theta"],
    "rope_scaling": None if scaling["rope_type"] == "default" else scaling,
    "tie_word_embeddings": config.tied_embeddings,
    "attention_dropout": 0.0,
    "use_cache": True,
    # An absent one is SmolLM3's own, beyond another model's vocabulary.
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
  }
  if scaling["rope_type"] == "longrope":
    # transformers 4 looks for it here alone.
    trained = "original_max_position_embeddings"
    fields[trained] = scaling[trained]
  if "attention_bias" in family.defaults:
    fields["attention_bias"] = config.qkv_bias
  if "mlp_bias" in family.defaults:
    fields["mlp_bias"] = False
  return fields | _by_layer(layers, family.defaults)


def _window_misfit(layers: Layers, defaults: Mapping[str, Any]) -> str | None:
  if len(layers.sizes) > 1:
    return f"windows of {' and '.join(map(str, layers.sizes))} tokens"
  if not layers.sizes or "layer_types" in defaults:
    return None
  if "sliding_window" not in defaults:
    return "windows"
  return "windows in some layers" if None in layers.windows else None


def _by_layer(layers: Layers, defaults: Mapping[str, Any]) -> dict[str, Any]:
  fields: dict[str, Any] = {}
  if "sliding_window" in defaults:
    fields["sliding_window"] = layers.sizes[0] if layers.sizes else None
  if "layer_types" in defaults:
    fields["use_sliding_window"] = bool(layers.sizes)
    fields["layer_types"] = [
      "sliding_attention" if window else "full_attention"
      for window in layers.windows
    ]
  if "max_window_layers" in defaults:
    fields["max_window_layers"] = len(layers.windows)
  if "no_rope_layers" in defaults:
    # For all its name, 1 means that the layer has RoPE.
    rotated = [int(scheme != Nope()) for scheme in layers.schemes]
    fields["no_rope_layers"] = rotated
  return fields
