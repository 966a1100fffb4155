"""config.json to a `ModelConfig`: every field is honoured, inert or refused."""

from collections.abc import Mapping
import pathlib
from typing import Any

from drope_jax.checkpoint.formats import fields, rope_parameters
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.families import FAMILIES, Family
from drope_jax.checkpoint.formats.hf_inert import INERT
from drope_jax.checkpoint.formats.kinds import (
  Flag,
  Kind,
  ListOf,
  Number,
  Object,
  OneOf,
  Optional,
  Whole,
)
from drope_jax.data import json_object
from drope_jax.model import config as model_config
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Scheme
from drope_jax.positional import pattern as patterns

FILENAME = "config.json"

_FULL, _SLIDING = "full_attention", "sliding_attention"

_ATTENTION_TYPES = {
  "nope": "none",
  "qk_norm_nope": "qk",
  "q_norm_nope": "q",
  "k_norm_nope": "k",
}
"""The DroPE paper's repository's, and what they norm."""

_KINDS: Mapping[str, Kind] = {
  "vocab_size": Whole(),
  "hidden_size": Whole(),
  "intermediate_size": Whole(),
  "num_hidden_layers": Whole(most=model_config.MOST_LAYERS),
  "num_attention_heads": Whole(),
  "num_key_value_heads": Whole(),
  "max_position_embeddings": Whole(),
  "original_max_position_embeddings": Whole(),
  "rms_norm_eps": Number(above=0),
  "rope_theta": Number(above=1),
  "rope_scaling": Object(),
  "rope_parameters": Object(),
  "tie_word_embeddings": Flag(),
  "layer_types": ListOf(OneOf(_FULL, _SLIDING)),
  "torch_dtype": OneOf("auto", *tensors_lib.FLOATS),
  "dtype": OneOf("auto", *tensors_lib.FLOATS),
  # Of which one value is what the model here does.
  "hidden_act": OneOf("silu", "swish"),
  "mlp_bias": OneOf(False),
  "use_sliding_window": OneOf(False),
  "partial_rotary_factor": OneOf(1.0, 1),
  "rope_interleaved": OneOf(False),
  "use_mrope": OneOf(False),
  "is_encoder_decoder": OneOf(False),
  "is_decoder": OneOf(False, True),
  "add_cross_attention": OneOf(False),
  "tie_encoder_decoder": OneOf(False),
  "pruned_heads": OneOf({}),
}
"""Fields of every family."""

_DEFAULTS: Mapping[str, Any] = {
  name: None
  for name in _KINDS
  if name
  not in (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
  )
} | {"rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": False}

_OWN_KINDS: Mapping[str, Kind] = {
  "head_dim": Whole(),
  "attention_bias": Flag(),
  "sliding_window": Optional(Whole()),
  "use_sliding_window": Flag(),
  "max_window_layers": Whole(least=0),
  "no_rope_layers": ListOf(OneOf(0, 1)),
  "no_rope_layer_interval": Whole(),
  "attention_type": OneOf(*_ATTENTION_TYPES),
  "softmax_scale": Number(above=0),
  "auto_map": Object(),  # It names the code that attention_type stands for.
}
"""Fields that some families have, as `Family.defaults` says."""


def read(path: pathlib.Path) -> tuple[ModelConfig, Family]:
  """Returns the model that a config.json describes, and its family.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is no JSON object; the architecture is unknown; a field is
      missing, unknown, or has a value that is not honoured.
  """
  if not path.exists():
    raise FileNotFoundError(
      f"A Hugging Face folder has a {FILENAME}, got none in {path.parent}. "
      "Name the folder that holds it."
    )
  data = json_object.read(path)
  try:
    return from_dict(data)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def from_dict(data: Mapping[str, Any]) -> tuple[ModelConfig, Family]:
  """Returns what `read` does, of the parsed object; raises likewise."""
  family = _family(data)
  own = {k: v for k, v in _OWN_KINDS.items() if k in family.defaults}
  # A family whose attention always has biases, or never, may say so.
  fixed = {"attention_bias": OneOf(family.biases)}
  values = fields.read(
    data,
    fixed | _KINDS | own,
    defaults={**_DEFAULTS, "attention_bias": None, **family.defaults},
    inert=INERT,
  )
  N, H = values["num_hidden_layers"], values["num_attention_heads"]
  head_dim = values["head_dim"] or values["hidden_size"] // H
  schemes = _schemes(values, family, head_dim)
  config = ModelConfig(
    vocab_size=values["vocab_size"],
    num_layers=N,
    width=values["hidden_size"],
    num_heads=H,
    num_kv_heads=values["num_key_value_heads"] or H,
    head_dim=head_dim,
    mlp_width=values["intermediate_size"],
    context_tokens=values["max_position_embeddings"],
    positional=patterns.of_layers(schemes, _windows(values, family, schemes)),
    **_norms(values, family),
    qkv_bias=family.biases or bool(values["attention_bias"]),
    tied_embeddings=values["tie_word_embeddings"],
    norm_eps=float(values["rms_norm_eps"]),
    logit_scale=_logit_scale(values, head_dim),
  )
  return config, family


def _family(data: Mapping[str, Any]) -> Family:
  model_type = data.get("model_type")
  family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
  architectures = data.get("architectures") or (
    [family.architecture] if family else []
  )
  if family is None or architectures != [family.architecture]:
    known = ", ".join(family.architecture for family in FAMILIES.values())
    raise ValueError(
      f"The architecture must be one of {known}, got {architectures} with "
      f"model_type {model_type!r}. Convert another checkpoint."
    )
  return family


def _norms(values: Mapping[str, Any], family: Family) -> dict[str, str]:
  if "attention_type" in family.defaults:
    normed = _ATTENTION_TYPES[values["attention_type"]]
    return {"qk_norm": normed, "qk_norm_scope": "joint"}
  if "layers/attention/q_norm/gain" in family.names:
    return {"qk_norm": "qk", "qk_norm_scope": "head"}
  return {"qk_norm": "none"}


def _logit_scale(values: Mapping[str, Any], head_dim: int) -> float:
  """Returns what logits are multiplied by beyond 1 / sqrt(D)."""
  scale = values.get("softmax_scale")
  return 1.0 if scale is None else float(scale) / head_dim**-0.5


def _schemes(
  values: Mapping[str, Any], family: Family, head_dim: int
) -> list[Scheme]:
  N = values["num_hidden_layers"]
  scheme = rope_parameters.read(
    values["rope_scaling"] or values["rope_parameters"] or {},
    values["rope_theta"],
    values["max_position_embeddings"],
    values["original_max_position_embeddings"],
  )
  scheme = rope_parameters.simplest(scheme, head_dim)
  if "attention_type" in family.defaults:
    return [Nope()] * N
  if "no_rope_layers" not in family.defaults:
    return [scheme] * N
  rotated = values["no_rope_layers"]
  if rotated is None:
    interval = values["no_rope_layer_interval"]
    rotated = [int((n + 1) % interval != 0) for n in range(N)]
  if len(rotated) != N:
    raise ValueError(
      f"no_rope_layers must have a 0 or 1 for each of {N} layers, got "
      f"{len(rotated)}. Put the model's there."
    )
  # For all its name, 1 means that the layer has RoPE.
  return [scheme if rotates else Nope() for rotates in rotated]


def _windows(
  values: Mapping[str, Any], family: Family, schemes: list[Scheme]
) -> list[int | None]:
  """Returns each layer's window; a query sees that many tokens, with itself."""
  N, own = len(schemes), family.defaults
  window = values.get("sliding_window")
  if "use_sliding_window" in own and not values["use_sliding_window"]:
    window = None
  kinds = values["layer_types"]
  if kinds is not None and len(kinds) != N:
    raise ValueError(
      f"layer_types must have one for each of {N} layers, got {len(kinds)}. "
      "Put the model's there."
    )
  if kinds is not None and "layer_types" in own:
    windowed = [kind == _SLIDING for kind in kinds]
  elif "no_rope_layers" in own:
    windowed = [scheme == Nope() for scheme in schemes]
  else:
    first = values.get("max_window_layers", 0)
    windowed = [n >= first for n in range(N)]
  windows = [window if sees_less else None for sees_less in windowed]
  if kinds is not None and kinds != [_SLIDING if w else _FULL for w in windows]:
    raise ValueError(
      "layer_types must say what the other fields of windows do, got "
      f"{', '.join(sorted(set(kinds)))} where sliding_window is {window}. Put "
      "the model's there."
    )
  return windows
