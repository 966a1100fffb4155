"""config.json to a `ModelConfig`: every field is honoured, inert or refused."""

from collections.abc import Mapping
import pathlib
from typing import Any

from drope_jax.checkpoint.formats import rope_parameters
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.families import FAMILIES, Family
from drope_jax.checkpoint.formats.fields import Fields, load_json
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Pattern, Scheme

FILENAME = "config.json"

_INERT = frozenset(
  {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_window_layers",
    "model_type",
    "no_rope_layer_interval",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
  }
)
"""Change no logit: of training, of generation, of other heads, or of speed.

Also those that are read where others are absent, and may be left over.
"""

_ONLY = {
  "hidden_act": ("silu", "swish"),
  "mlp_bias": (False,),
  "rope_interleaved": (False,),
  "use_mrope": (False,),
  "is_encoder_decoder": (False,),
  "is_decoder": (False, True),
  "add_cross_attention": (False,),
  "tie_encoder_decoder": (False,),
}
"""Fields of which one value is what the model here does."""


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
  data = load_json(path)
  try:
    return from_dict(data)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def from_dict(data: Mapping[str, Any]) -> tuple[ModelConfig, Family]:
  """Returns what `read` does, of the parsed object; raises likewise."""
  family = _family(data)
  fields = Fields(data, _INERT, family.defaults)
  for name, allowed in _ONLY.items():
    fields.require(name, allowed)
  for name in ("torch_dtype", "dtype"):
    fields.require(name, (None, "auto", *tensors_lib.FLOATS))
  N = fields.whole("num_hidden_layers")
  width, H = fields.whole("hidden_size"), fields.whole("num_attention_heads")
  context_tokens = fields.whole("max_position_embeddings")
  may_be_biased = "attention_bias" in family.defaults
  head_dim = fields.whole("head_dim", width // max(H, 1))
  schemes = _schemes(fields, N, context_tokens, head_dim)
  config = ModelConfig(
    vocab_size=fields.whole("vocab_size"),
    num_layers=N,
    width=width,
    num_heads=H,
    num_kv_heads=fields.whole("num_key_value_heads", H),
    head_dim=head_dim,
    mlp_width=fields.whole("intermediate_size"),
    context_tokens=context_tokens,
    positional=_pattern(schemes, _windows(fields, schemes)),
    **_norms(fields, family),
    qkv_bias=family.biases
    or (may_be_biased and bool(fields.take("attention_bias"))),
    tied_embeddings=bool(fields.take("tie_word_embeddings", False)),
    norm_eps=fields.number("rms_norm_eps", 1e-6),
    logit_scale=_logit_scale(fields, head_dim),
  )
  fields.refuse_the_rest()
  return config, family


def _norms(fields: Fields, family: Family) -> dict[str, str]:
  if "attention_type" in fields.defaults:
    kind = fields.take("attention_type")
    if kind not in _ATTENTION_TYPES:
      raise ValueError(
        f"attention_type must be one of {', '.join(_ATTENTION_TYPES)}, got "
        f"{kind!r}. This checkpoint cannot be read exactly."
      )
    return {"qk_norm": _ATTENTION_TYPES[kind], "qk_norm_scope": "joint"}
  if "layers/attention/q_norm/gain" in family.names:
    return {"qk_norm": "qk", "qk_norm_scope": "head"}
  return {"qk_norm": "none"}


def _logit_scale(fields: Fields, head_dim: int) -> float:
  """Returns what logits are multiplied by beyond 1 / sqrt(D)."""
  if "softmax_scale" not in fields.defaults:
    return 1.0
  fields.take("auto_map")  # It names the code that this stands for.
  scale = fields.take("softmax_scale")
  return 1.0 if scale is None else float(scale) / head_dim**-0.5


def _family(data: Mapping[str, Any]) -> Family:
  family = FAMILIES.get(data.get("model_type"))
  architectures = data.get("architectures") or (
    [family.architecture] if family else []
  )
  if family is None or architectures != [family.architecture]:
    known = ", ".join(family.architecture for family in FAMILIES.values())
    raise ValueError(
      f"The architecture must be one of {known}, got {architectures} with "
      f"model_type {data.get('model_type')!r}. Convert another checkpoint."
    )
  return family


_ATTENTION_TYPES = {
  "nope": "none",
  "qk_norm_nope": "qk",
  "q_norm_nope": "q",
  "k_norm_nope": "k",
}
"""The DroPE paper's repository's, and what they norm."""


def _schemes(
  fields: Fields, N: int, context_tokens: int, head_dim: int
) -> list[Scheme]:
  theta = fields.number("rope_theta", 1e4)
  scaling = fields.take("rope_scaling") or fields.take("rope_parameters") or {}
  fields.take("rope_parameters")
  scheme = rope_parameters.simplest(
    rope_parameters.read(scaling, theta, context_tokens), head_dim
  )
  if "attention_type" in fields.defaults:
    return [Nope()] * N
  rotated = fields.take("no_rope_layers")
  if rotated is None and "no_rope_layers" in fields.defaults:
    interval = fields.whole("no_rope_layer_interval")
    rotated = [int((n + 1) % interval != 0) for n in range(N)]
  if rotated is None:
    return [scheme] * N
  if len(rotated) != N:
    raise ValueError(
      f"no_rope_layers must have a 0 or 1 for each of {N} layers, got "
      f"{len(rotated)}. Put the model's there."
    )
  # For all its name, 1 means that the layer has RoPE.
  return [scheme if rotates else Nope() for rotates in rotated]


def _windows(fields: Fields, schemes: list[Scheme]) -> list[int | None]:
  """Returns each layer's window; a query sees that many tokens, with itself."""
  N, window = len(schemes), fields.take("sliding_window")
  if "use_sliding_window" in fields.defaults:
    window = window if fields.take("use_sliding_window") else None
  by_layer = "layer_types" in fields.defaults
  kinds = fields.take("layer_types") if by_layer else None
  if kinds is None:
    if "no_rope_layers" in fields.defaults:
      windowed = [scheme == Nope() for scheme in schemes]
    else:
      first = fields.take("max_window_layers", 0)
      windowed = [n >= first for n in range(N)]
  else:
    known = ("full_attention", "sliding_attention")
    if len(kinds) != N or not set(kinds) <= set(known):
      raise ValueError(
        f"layer_types must have {' or '.join(known)} for each of {N} layers, "
        f"got {kinds}. Put the model's there."
      )
    windowed = [kind == "sliding_attention" for kind in kinds]
  return [window if sees_less else None for sees_less in windowed]


def _pattern(
  schemes: list[Scheme], windows: list[int | None]
) -> Scheme | Pattern:
  """Returns the shortest way to say it."""
  N = len(schemes)
  layers = list(zip(schemes, windows, strict=True))
  period = next(
    p for p in range(1, N + 1) if not N % p and layers == layers[:p] * (N // p)
  )
  if period == 1 and windows[0] is None:
    return schemes[0]
  return Pattern(
    tuple(schemes[:period]), tuple(windows[:period]) if any(windows) else ()
  )
