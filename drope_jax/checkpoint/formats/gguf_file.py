"""GGUF files of the architectures in `ARCHITECTURES`.

Floats are read as they are, and quantized types as what the `gguf` library
makes of them, in float32.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
import types
from typing import Any

import numpy as np

from drope_jax.checkpoint.formats import (
  gguf_header,
  gguf_metadata,
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
  PositionInterpolation,
  RescaledRope,
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
  **{f"layers/attention/{x}/bias": f"blk.{{}}.attn_{x}.bias" for x in "qkv"},
  **{
    f"layers/attention/{x}_norm/gain": f"blk.{{}}.attn_{x}_norm.weight"
    for x in "qk"
  },
}
_POST_ATTENTION = "blk.{}.post_attention_norm.weight"


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What the models of one general.architecture are.

  Attributes:
    qk_norm_scope: `ModelConfig.qk_norm_scope`; None: q and k have no norms.
    norm_placement: `ModelConfig.norm_placement`.
    interleaved: whether q and k lie in Meta's rotary layout.
    names: our path to their name, where it is not Llama's.
  """

  qk_norm_scope: str | None = None
  norm_placement: str = "pre"
  interleaved: bool = False
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)


ARCHITECTURES: Mapping[str, Architecture] = types.MappingProxyType(
  {
    "llama": Architecture(interleaved=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(qk_norm_scope="head"),
    "olmo2": Architecture(
      qk_norm_scope="joint",
      norm_placement="post",
      names={
        "layers/attention_post_norm/gain": _POST_ATTENTION,
        "layers/mlp_post_norm/gain": "blk.{}.post_ffw_norm.weight",
      },
    ),
    "seed_oss": Architecture(names={"layers/mlp_norm/gain": _POST_ATTENTION}),
    "ernie4_5": Architecture(interleaved=True),
  }
)
"""By general.architecture. Mistral's is "llama"."""

_ROPE_FACTORS = "rope_freqs.weight"
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def open_file(
  path: pathlib.Path,
  *,
  dtype: str,
  allow_nonfinite: bool,
) -> Source:
  """Returns the model in a file; no weight is read.

  Args:
    path: one file, not split.
    dtype: as `leaves.build` takes it; to keep a quantized type is float32.
    allow_nonfinite: likewise.

  Raises:
    ValueError: the `gguf` library is not installed; the file is damaged; the
      architecture, a setting or a type is not read here.
  """
  header = gguf_header.read(path)
  metadata = header.fields
  tensors = {
    name: _tensor(path, name, info) for name, info in header.tensors.items()
  }
  try:
    architecture = metadata.get("general.architecture")
    if architecture not in tuple(ARCHITECTURES):
      raise ValueError(
        f"The architecture must be one of {', '.join(ARCHITECTURES)}, got "
        f"{architecture!r}. Convert the Hugging Face folder instead."
      )
    config = _config(
      gguf_metadata.model_fields(metadata, architecture), architecture, tensors
    )
    names = {**_LLAMA, **ARCHITECTURES[architecture].names}
    if ARCHITECTURES[architecture].interleaved:
      rope_layout.to_ours(tensors, config, names)
    built = leaves.build(
      config,
      names,
      tensors,
      dtype=dtype,
      allow_nonfinite=allow_nonfinite,
    )
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error

  def tokenizer(scratch: pathlib.Path) -> pathlib.Path:
    try:
      gguf_metadata.require_tokenizer(metadata)
      return gguf_tokenizer.write(metadata, scratch)
    except ValueError as error:
      raise ValueError(f"{path}: {error}") from error

  kinds = sorted({info.kind.name for info in header.tensors.values()})
  facts = {"format": "gguf", "types": kinds}
  return Source(config, built, tokenizer, facts)


def _tensor(
  path: pathlib.Path, name: str, info: gguf_header.TensorInfo
) -> Tensor:
  tensors_lib.require_axes(f"{name} in {path}", info.shape)
  kind = info.kind.name
  if kind in _FLOATS:
    dtype = tensors_lib.FLOATS[_FLOATS[kind]]
    return tensors_lib.in_file(path, info.offset, info.shape, dtype)
  packed = tensors_lib.in_file(
    path, info.offset, info.shape_in_bytes, np.dtype(np.uint8)
  )

  def rows(start: int, stop: int) -> np.ndarray:
    from gguf import quants  # Of the extra "gguf", as the header's types are.

    try:
      return quants.dequantize(packed.rows(start, stop), info.kind)
    except NotImplementedError as error:
      raise ValueError(
        "Weights must be of a type that the gguf library dequantizes, got "
        f"{kind} for {name}. Use another quantization."
      ) from error

  return Tensor(info.shape, tensors_lib.FLOATS["float32"], rows)


def _config(
  fields: Mapping[str, Any], architecture: str, tensors: dict[str, Tensor]
) -> ModelConfig:
  H, width = fields["attention.head_count"], fields["embedding_length"]
  head_dim = fields["attention.key_length"] or width // H
  for name in ("attention.value_length", "rope.dimension_count"):
    if fields[name] not in (None, head_dim):
      raise ValueError(
        f"{architecture}.{name} must be the head's {head_dim}, got "
        f"{fields[name]}. This file cannot be read exactly."
      )
  embedding = tensors.get("token_embd.weight")
  if embedding is None or len(embedding.shape) != 2:
    raise ValueError(
      "An embedding of two axes is needed as token_embd.weight, got "
      f"{embedding and embedding.shape}. Fetch the file again."
    )
  scope = ARCHITECTURES[architecture].qk_norm_scope
  return ModelConfig(
    vocab_size=embedding.shape[0],
    num_layers=fields["block_count"],
    width=width,
    num_heads=H,
    num_kv_heads=fields["attention.head_count_kv"] or H,
    head_dim=head_dim,
    mlp_width=fields["feed_forward_length"],
    context_tokens=fields["context_length"],
    positional=_positions(fields, tensors.pop(_ROPE_FACTORS, None), head_dim),
    qk_norm="qk" if scope else "none",
    qk_norm_scope=scope or "joint",
    norm_placement=ARCHITECTURES[architecture].norm_placement,
    qkv_bias="blk.0.attn_q.bias" in tensors,
    tied_embeddings="output.weight" not in tensors,
    norm_eps=_shortest(fields["attention.layer_norm_rms_epsilon"]),
  )


def _positions(
  fields: Mapping[str, Any], factors: Tensor | None, head_dim: int
) -> Scheme:
  theta = _shortest(fields["rope.freq_base"])
  is_linear = fields["rope.scaling.type"] == "linear"
  factor = float(fields["rope.scaling.factor"]) if is_linear else 1.0
  if factors is None:
    return Rope(theta) if factor == 1 else PositionInterpolation(theta, factor)
  if factor != 1 or factors.shape != (head_dim // 2,):
    raise ValueError(
      f"{_ROPE_FACTORS} must be {head_dim // 2} factors, one a channel pair, "
      f"and all that scales positions, got {factors.shape} and a linear factor "
      f"of {factor:g}. Convert the Hugging Face folder instead."
    )
  divided_by_F = factors.array().astype(np.float32)
  given = RescaledRope(theta, tuple(map(_shortest, divided_by_F)))
  simplest = rope_parameters.simplest(given, head_dim)
  if simplest != given:
    return simplest
  # Llama 3's divides the slowest pairs by the factor itself; of the rule's
  # other numbers every Llama has the same.
  llama3 = Llama3Rope(theta, max(1.0, *given.factors))
  same = np.allclose(
    given.frequencies(head_dim), llama3.frequencies(head_dim), rtol=1e-5, atol=0
  )
  return llama3 if same else given


def _shortest(value: float) -> float:
  """Returns the decimal that a float32 was made from: 1e-5, for one."""
  return float(str(np.float32(value)))
