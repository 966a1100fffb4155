"""config.json and `ModelConfig`: every field is honored, inert or refused."""

from collections.abc import Mapping
import pathlib
from typing import Any

from drope_jax.checkpoint.formats import fields
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.families import FAMILIES, Family
from drope_jax.checkpoint.formats.hf_inert import INERT
from drope_jax.checkpoint.formats.hf_layers import FULL, SLIDING
from drope_jax.checkpoint.formats.kinds import (
  Flag,
  Kind,
  ListOf,
  Number,
  Object,
  OneOf,
  Whole,
)
from drope_jax.data import json_object
from drope_jax.model import config as model_config
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Pattern, Scheme
from drope_jax.positional import pattern as patterns

FILENAME = "config.json"

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
  "layer_types": ListOf(OneOf(FULL, SLIDING)),
  "torch_dtype": OneOf("auto", *tensors_lib.FLOATS),
  "dtype": OneOf("auto", *tensors_lib.FLOATS),
  # Of which one value is what the model here does.
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


def read(path: pathlib.Path) -> tuple[ModelConfig, Family]:
  """Returns the model that a config.json describes, and its family.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is no JSON object; the architecture is unknown; a field is
      missing, unknown, or has a value that is not honored.
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
  kinds, defaults = dict(_KINDS), dict(_DEFAULTS)
  for choice in family.choices:
    kinds |= choice.kinds
    defaults |= choice.defaults
  defaults |= family.defaults
  named = {
    name: theirs
    for name in kinds
    if (theirs := family.renamed.get(name, name)) is not None
  }
  read = fields.read(
    data,
    {theirs: kinds[name] for name, theirs in named.items()},
    defaults={
      theirs: defaults[name]
      for name, theirs in named.items()
      if name in defaults
    },
    inert=INERT,
  )
  values = {
    name: read[named[name]] if name in named else defaults[name]
    for name in kinds
  }
  M, H = values["hidden_size"], values["num_attention_heads"]
  values["head_dim"] = values["head_dim"] or M // H
  if values["head_dim"] < 1:
    raise ValueError(
      f"head_dim must be at least 1, got {H} heads for a hidden_size of {M}. "
      "Put the model's there."
    )
  chosen: dict[str, Any] = {
    "vocab_size": values["vocab_size"],
    "num_layers": values["num_hidden_layers"],
    "width": M,
    "num_heads": H,
    "num_kv_heads": values["num_key_value_heads"] or H,
    "mlp_width": values["intermediate_size"],
    "context_tokens": values["max_position_embeddings"],
    "positional": _positional(family, values),
    "tied_embeddings": values["tie_word_embeddings"],
    "norm_eps": float(values["rms_norm_eps"]),
  }
  for choice in family.choices:
    chosen |= choice.read(values)
  return ModelConfig(**chosen), family


def to_dict(config: ModelConfig, model_type: str) -> dict[str, Any]:
  """Returns config.json's fields, none of the tokenizer's set.

  `from_dict` reads the same model from them, if the family has no misfit.
  """
  family = FAMILIES[model_type]
  written = {
    "architectures": [family.architecture],
    "model_type": model_type,
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "intermediate_size": config.mlp_width,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "max_position_embeddings": config.context_tokens,
    "rms_norm_eps": config.norm_eps,
    "tie_word_embeddings": config.tied_embeddings,
    "attention_dropout": 0.0,
    "use_cache": True,
    # An absent one is SmolLM3's own, beyond another model's vocabulary.
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
  }
  for choice in family.choices:
    written |= choice.write(config)
  return {
    theirs: value
    for name, value in written.items()
    if (theirs := family.renamed.get(name, name)) is not None
  }


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


def _positional(family: Family, values: Mapping[str, Any]) -> Scheme | Pattern:
  N, named = values["num_hidden_layers"], values["layer_types"]
  if named is not None and len(named) != N:
    raise ValueError(
      f"layer_types must have one for each of {N} layers, got {len(named)}. "
      "Put the model's there."
    )
  schemes = family.positions.schemes(values)
  sizes = family.windows.windows(values, schemes)
  if named is not None and named != [SLIDING if w else FULL for w in sizes]:
    raise ValueError(
      "layer_types must say what the other fields of windows do, got "
      f"{', '.join(sorted(set(named)))} where the windows are "
      f"{', '.join(map(str, dict.fromkeys(sizes)))}. Put the model's there."
    )
  return patterns.of_layers(schemes, sizes)
