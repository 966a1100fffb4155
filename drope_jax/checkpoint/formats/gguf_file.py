"""GGUF files: Llama's, Mistral's (a "llama" there), Qwen2's and Qwen3's.

Floats are read as they are, quantised types as what the `gguf` library makes
of them, in float32. Llama's q and k lie in Meta's rotary layout.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np

from drope_jax.checkpoint.formats import (
  gguf_tokenizer,
  leaves,
  rope_layout,
  rope_parameters,
)
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.source import Source
from drope_jax.checkpoint.formats.tensors import Tensor
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  Llama3Rope,
  Nope,
  PositionInterpolation,
  Rope,
  Scheme,
)

_LLAMA = {
  "embed/table": "token_embd.weight",
  "layers/attention_norm/gain": "blk.{}.attn_norm.weight",
  "layers/attention/q/kernel": "blk.{}.attn_q.weight",
  "layers/attention/k/kernel": "blk.{}.attn_k.weight",
  "layers/attention/v/kernel": "blk.{}.attn_v.weight",
  "layers/attention/o/kernel": "blk.{}.attn_output.weight",
  "layers/mlp_norm/gain": "blk.{}.ffn_norm.weight",
  "layers/mlp/gate/kernel": "blk.{}.ffn_gate.weight",
  "layers/mlp/up/kernel": "blk.{}.ffn_up.weight",
  "layers/mlp/down/kernel": "blk.{}.ffn_down.weight",
  "final_norm/gain": "output_norm.weight",
  "head/kernel": "output.weight",
}
_BIASES = {
  f"layers/attention/{x}/bias": f"blk.{{}}.attn_{x}.bias" for x in "qkv"
}
_NORMS = {
  f"layers/attention/{x}_norm/gain": f"blk.{{}}.attn_{x}_norm.weight"
  for x in "qk"
}
NAMES = {
  "llama": _LLAMA | _BIASES,
  "qwen2": _LLAMA | _BIASES,
  "qwen3": _LLAMA | _NORMS,
}
"""By general.architecture."""

_ROPE_FACTORS = "rope_freqs.weight"
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def open_file(
  path: pathlib.Path,
  scratch: pathlib.Path,
  *,
  dtype: str,
  allow_nonfinite: bool,
) -> Source:
  """Returns the model in a file; no weight is read.

  Args:
    path: one file, not split.
    scratch: where its tokenizer is written to.
    dtype: as `leaves.build` takes it; to keep a quantised type is float32.
    allow_nonfinite: likewise.

  Raises:
    ValueError: the `gguf` library is not installed; the file is damaged; the
      architecture, a setting, a type or the tokenizer is not read here.
  """
  try:
    import gguf  # Of the extra "gguf"; nothing else here needs it.
  except ImportError as error:
    raise ValueError(
      "GGUF files need the gguf library, got none. Install it with "
      "`pip install 'drope_jax[gguf]'`."
    ) from error
  try:
    reader = gguf.GGUFReader(path)
  except (ValueError, IndexError, OSError) as error:
    raise ValueError(
      f"{path} must be a whole GGUF file, got {path.stat().st_size} bytes that "
      f"are not ({error}). Fetch it again."
    ) from error
  metadata = {name: field.contents() for name, field in reader.fields.items()}
  tensors = {
    tensor.name: _tensor(path, tensor, gguf.quants.dequantize)
    for tensor in reader.tensors
  }
  try:
    config = _config(metadata, tensors)
    names = NAMES[metadata["general.architecture"]]
    if metadata["general.architecture"] == "llama":
      _permute(tensors, config)
    built = leaves.build(
      config, names, tensors, dtype=dtype, allow_nonfinite=allow_nonfinite
    )
    tokenizer_path = gguf_tokenizer.write(metadata, scratch)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
  facts = {"format": "gguf", "types": kinds}
  return Source(config, built, tokenizer_path, facts)


def _tensor(path: pathlib.Path, tensor: Any, dequantize: Any) -> Tensor:
  shape = tuple(int(size) for size in reversed(tensor.shape))
  kind = tensor.tensor_type
  if kind.name in _FLOATS:
    dtype = tensors_lib.FLOATS[_FLOATS[kind.name]]
    return tensors_lib.in_file(path, int(tensor.data_offset), shape, dtype)
  packed = tensors_lib.in_file(
    path,
    int(tensor.data_offset),
    tuple(int(size) for size in tensor.data.shape),
    tensor.data.dtype,
  )

  def rows(start: int, stop: int) -> np.ndarray:
    try:
      return dequantize(packed.rows(start, stop), kind)
    except NotImplementedError as error:
      raise ValueError(
        "Weights must be of a type that the gguf library dequantises, got "
        f"{kind.name} for {tensor.name}. Use another quantisation."
      ) from error

  return Tensor(shape, tensors_lib.FLOATS["float32"], rows)


def _config(
  metadata: Mapping[str, Any], tensors: dict[str, Tensor]
) -> ModelConfig:
  name = metadata.get("general.architecture")
  if name not in NAMES:
    raise ValueError(
      f"The architecture must be one of {', '.join(NAMES)}, got {name!r}. "
      "Convert the Hugging Face folder instead."
    )
  left = {key: v for key, v in metadata.items() if key.startswith(f"{name}.")}

  def take(key: str, *default: Any) -> Any:
    full = f"{name}.{key}"
    if full not in left and not default:
      raise ValueError(f"{full} is needed, got none. Fetch the file again.")
    return left.pop(full, *default)

  H, width = int(take("attention.head_count")), int(take("embedding_length"))
  head_dim = int(take("attention.key_length", width // max(H, 1)))
  for key in ("attention.value_length", "rope.dimension_count"):
    if (got := int(take(key, head_dim))) != head_dim:
      raise ValueError(
        f"{name}.{key} must be the head's {head_dim}, got {got}. This file "
        "cannot be read exactly."
      )
  take("vocab_size", None)  # The embedding's rows say it.
  if "token_embd.weight" not in tensors:
    raise ValueError(
      "An embedding is needed, got no token_embd.weight. Fetch the file again."
    )
  normed = "layers/attention/q_norm/gain" in NAMES[name]
  config = ModelConfig(
    vocab_size=tensors["token_embd.weight"].shape[0],
    num_layers=int(take("block_count")),
    width=width,
    num_heads=H,
    num_kv_heads=int(take("attention.head_count_kv", H)),
    head_dim=head_dim,
    mlp_width=int(take("feed_forward_length")),
    context_tokens=int(take("context_length")),
    positional=_positions(take, tensors.pop(_ROPE_FACTORS, None), head_dim),
    qk_norm="qk" if normed else "none",
    qk_norm_scope="head" if normed else "joint",
    qkv_bias="blk.0.attn_q.bias" in tensors,
    tied_embeddings="output.weight" not in tensors,
    norm_eps=_shortest(take("attention.layer_norm_rms_epsilon")),
  )
  if left:
    raise ValueError(
      "Every setting must be one that is honoured here, got "
      f"{tensors_lib.listed(left)}. This file cannot be read exactly."
    )
  return config


def _positions(take: Any, factors: Tensor | None, head_dim: int) -> Scheme:
  theta = _shortest(take("rope.freq_base", 10_000.0))
  kind, factor = (
    take("rope.scaling.type", "none"),
    take("rope.scaling.factor", 1),
  )
  if kind not in ("none", "linear"):
    raise ValueError(
      f"Positions must be plain, linear or Llama 3's, got {kind!r}. Convert "
      "the Hugging Face folder instead."
    )
  if factors is None:
    linear = kind == "linear"
    return (
      PositionInterpolation(theta, float(factor)) if linear else Rope(theta)
    )
  divided_by_F = factors.array().astype(np.float32)
  largest = float(divided_by_F.max())
  if (divided_by_F == np.float32(rope_parameters.NEUTRAL["factor"])).all():
    return Nope()
  # The slowest pairs are divided by the factor itself; of the rule's other
  # numbers every Llama has the same.
  scheme = Llama3Rope(theta, largest)
  plain_F = Rope(theta).frequencies(head_dim)
  got_F = plain_F / divided_by_F
  if kind != "none" or not np.allclose(
    got_F, scheme.frequencies(head_dim), rtol=1e-5, atol=0
  ):
    raise ValueError(
      f"{_ROPE_FACTORS} must be Llama 3's, got others. Convert the Hugging "
      "Face folder instead."
    )
  return scheme


def _shortest(value: float) -> float:
  """Returns the decimal that a float32 was made from: 1e-5, for one."""
  return float(str(np.float32(value)))


def _permute(tensors: dict[str, Tensor], config: ModelConfig) -> None:
  for n in range(config.num_layers):
    for x in "qk":
      for part in ("weight", "bias"):
        name = f"blk.{n}.attn_{x}.{part}"
        if name in tensors:
          tensors[name] = rope_layout.half_split(tensors[name], config.head_dim)
