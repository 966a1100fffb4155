"""What the fields of a GGUF file must be, of a model and of a tokenizer."""

from collections.abc import Mapping
from typing import Any

from drope_jax.checkpoint.formats import fields, kinds
from drope_jax.checkpoint.formats.kinds import (
  Flag,
  Kind,
  ListOf,
  Number,
  OneOf,
  Text,
  Whole,
)
from drope_jax.model import config as model_config

_LAYERWISE = (
  "attention.head_count",
  "attention.head_count_kv",
  "feed_forward_length",
)
"""Fields that may also be a list, with a number for each layer."""

_NEUTRAL: Mapping[str, Any] = {
  "attention.causal": True,
  "attention.clamp_kqv": 0.0,
  "attention.max_alibi_bias": 0.0,
  "attention.sliding_window": 0,
  "expert_count": 0,
  "expert_used_count": 0,
  "logit_scale": 1.0,
  "rope.scaling.attn_factor": 1.0,
  "use_parallel_residual": False,
}
"""Fields of which one value is what the model here does."""

_INERT = (
  "rope.scaling.finetuned",
  "rope.scaling.original_context_length",  # YaRN's and LongRoPE's.
  "tensor_data_layout",  # What the converter started from.
  "vocab_size",  # The embedding's rows say it.
)

_MODEL: dict[str, Kind] = {
  "block_count": Whole(most=model_config.MOST_LAYERS),
  "context_length": Whole(),
  "embedding_length": Whole(),
  "feed_forward_length": Whole(),
  "attention.head_count": Whole(),
  "attention.head_count_kv": Whole(),
  "attention.key_length": Whole(),
  "attention.value_length": Whole(),
  "attention.layer_norm_rms_epsilon": Number(above=0),
  "rope.dimension_count": Whole(),
  "rope.freq_base": Number(above=1),
  "rope.scaling.type": OneOf("none", "linear"),
  "rope.scaling.factor": Number(above=0),
  **{name: OneOf(value) for name, value in _NEUTRAL.items()},
}

_DEFAULTS: Mapping[str, Any] = {
  "attention.head_count_kv": None,
  "attention.key_length": None,
  "attention.value_length": None,
  "rope.dimension_count": None,
  "rope.freq_base": 10_000.0,
  "rope.scaling.type": "linear",  # As llama.cpp's loader has it.
  "rope.scaling.factor": 1.0,
  **_NEUTRAL,
}

_TOKENIZER: Mapping[str, Kind] = {
  "tokenizer.ggml.model": Text(),
  "tokenizer.ggml.pre": Text(),
  "tokenizer.ggml.tokens": ListOf(Text()),
  "tokenizer.ggml.scores": ListOf(Number()),
  "tokenizer.ggml.token_type": ListOf(Whole(0, 6)),
  "tokenizer.ggml.merges": ListOf(Text()),
  "tokenizer.ggml.add_bos_token": Flag(),
  "tokenizer.ggml.add_eos_token": Flag(),
  "tokenizer.ggml.add_space_prefix": Flag(),
  "tokenizer.chat_template": Text(),
  "tokenizer.chat_templates": ListOf(Text()),
}

_NEEDED = {
  "llama": ("tokens", "scores", "token_type"),
  "gpt2": ("tokens", "merges"),
}
"""What rebuilding a tokenizer of each tokenizer.ggml.model takes."""

_IDS = ("bos", "eos", "eot", "padding", "unknown")


def model_fields(
  metadata: Mapping[str, Any], architecture: str
) -> dict[str, Any]:
  """Returns the model's fields without the prefix, with every default.

  Raises:
    ValueError: fields are missing, unknown or of another kind.
  """
  prefix = f"{architecture}."
  given = {k: v for k, v in metadata.items() if k.startswith(prefix)}
  layers = given.get(f"{prefix}block_count")
  for name in (prefix + name for name in _LAYERWISE):
    value = given.get(name)
    if not isinstance(value, list) or len(value) != layers:
      continue
    if value == value[:1] * layers:
      given[name] = value[0]
  read = fields.read(
    given,
    {prefix + name: kind for name, kind in _MODEL.items()},
    defaults={prefix + name: value for name, value in _DEFAULTS.items()},
    inert=[prefix + name for name in _INERT],
  )
  return {name.removeprefix(prefix): value for name, value in read.items()}


def require_tokenizer(metadata: Mapping[str, Any]) -> None:
  """Raises ValueError where a tokenizer's fields are not what they must be."""
  wrong = kinds.complaints(metadata, _TOKENIZER)
  kind = metadata.get("tokenizer.ggml.model")
  wrong += [
    f"tokenizer.ggml.{name} must be there, got none"
    for name in _NEEDED.get(kind if isinstance(kind, str) else "", ())
    if f"tokenizer.ggml.{name}" not in metadata
  ]
  templates = {
    name: Text()
    for name in metadata
    if name.startswith("tokenizer.chat_template.")
  }
  wrong += kinds.complaints(metadata, templates)
  if not wrong:
    wrong = _disagreements(metadata)
  if wrong:
    raise ValueError(
      f"{'; '.join(wrong)}. Convert the Hugging Face folder instead, or make "
      "the file again with llama.cpp's converter of today."
    )


def _disagreements(metadata: Mapping[str, Any]) -> list[str]:
  """Returns where fields, each of its kind, do not belong together."""
  pieces = metadata.get("tokenizer.ggml.tokens", [])
  ids = {
    f"tokenizer.ggml.{role}_token_id": Whole(0, len(pieces) - 1)
    for role in _IDS
  }
  wrong = kinds.complaints(metadata, ids)
  for name in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
    if len(metadata.get(name, pieces)) != len(pieces):
      wrong.append(
        f"{name} must have one for each of {len(pieces)} pieces, got "
        f"{len(metadata[name])}"
      )
  if len(set(pieces)) < len(pieces):
    wrong.append(
      "tokenizer.ggml.tokens must differ from each other, got "
      f"{len(pieces) - len(set(pieces))} that do not"
    )
  known = set(pieces)
  for merge in metadata.get("tokenizer.ggml.merges", ()):
    left, _, right = merge.partition(" ")
    if not {left, right, left + right} <= known:
      wrong.append(
        f"tokenizer.ggml.merges must join two pieces to a third, got {merge!r}"
      )
      break
  return wrong
