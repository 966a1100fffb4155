"""llama2.c's `.bin` files, versions 0 and 1: float32, of Llama 2's form.

Neither says its theta or its norms' epsilon, which are llama2.c's own: 10000
and 1e-5. Source: github.com/karpathy/llama2.c, export.py.
"""

from collections.abc import Iterator
import math
import pathlib
import struct

from drope_jax.checkpoint.formats import leaves, rope_layout
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.source import Source
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Rope

_MAGIC = 0x616B3432  # "ak42", of every version but the first.
_HEADER_BYTES = {0: 28, 1: 256}

NAMES = {
  "embed/table": "token_embedding",
  "layers/attention_norm/gain": "rms_att.{}",
  "layers/attention/q/kernel": "wq.{}",
  "layers/attention/k/kernel": "wk.{}",
  "layers/attention/v/kernel": "wv.{}",
  "layers/attention/o/kernel": "wo.{}",
  "layers/mlp_norm/gain": "rms_ffn.{}",
  "layers/mlp/gate/kernel": "w1.{}",
  "layers/mlp/down/kernel": "w2.{}",
  "layers/mlp/up/kernel": "w3.{}",
  "final_norm/gain": "rms_final",
  "head/kernel": "wcls",
}
_ATTENTION, _MLP = (
  ("wq.{}", "wk.{}", "wv.{}", "wo.{}"),
  ("w1.{}", "w2.{}", "w3.{}"),
)
_ORDERS = {
  0: ("token_embedding", "rms_att.{}", *_ATTENTION, "rms_ffn.{}", *_MLP,
      "rms_final", "rope tables", "wcls"),
  1: ("rms_att.{}", "rms_ffn.{}", "rms_final", "token_embedding", *_ATTENTION,
      *_MLP, "wcls"),
}  # fmt: skip


def open_file(
  path: pathlib.Path, *, dtype: str, allow_nonfinite: bool
) -> Source:
  """Returns the model in a file; no weight is read.

  Args:
    path: with a single sentencepiece `.model` beside, if any.
    dtype: as `leaves.build` takes it.
    allow_nonfinite: likewise.

  Raises:
    ValueError: another version, or not the length that the header calls for.
  """
  version, config = _header(path)
  tensors = {}
  offset = _HEADER_BYTES[version]
  float32 = tensors_lib.FLOATS["float32"]
  for name, shape in _layout(version, config):
    tensors[name] = tensors_lib.in_file(path, offset, shape, float32)
    offset += 4 * math.prod(shape)
  if path.stat().st_size != offset:
    raise ValueError(
      f"{path} must be {offset} bytes by its header, got "
      f"{path.stat().st_size}. Fetch it again."
    )
  tensors.pop("rope tables", None)
  rope_layout.to_ours(tensors, config, NAMES)
  beside = sorted(path.parent.glob("*.model"))
  return Source(
    config,
    leaves.build(
      config,
      NAMES,
      tensors,
      dtype=dtype,
      allow_nonfinite=allow_nonfinite,
    ),
    lambda _: beside[0] if len(beside) == 1 else None,
    facts={"format": "llama2.c", "version": version},
    # Its run.c does both: its stories are told apart by BOS alone.
    adds_bos=True,
    ends_at_bos=True,
  )


def _header(path: pathlib.Path) -> tuple[int, ModelConfig]:
  with path.open("rb") as file:
    start = file.read(_HEADER_BYTES[1])
  if len(start) < _HEADER_BYTES[0]:
    raise ValueError(
      f"{path} must be a llama2.c file, got {len(start)} bytes. Fetch it again."
    )
  magic, version = struct.unpack_from("<Ii", start)
  if magic != _MAGIC:
    sizes = struct.unpack_from("<7i", start)
    version, tied = 0, sizes[5] > 0
  elif version != 1:
    raise ValueError(
      f"{path} must be of llama2.c's version 0 or 1, in float32, got version "
      f"{version}. Export the model with `--version 1`."
    )
  elif len(start) < _HEADER_BYTES[1]:
    raise ValueError(
      f"{path} must have a header of {_HEADER_BYTES[1]} bytes, as llama2.c's "
      f"version 1 has, got {len(start)}. Fetch it again."
    )
  else:
    *sizes, tied = struct.unpack_from("<7iB", start, 8)
  width, mlp_width, N, H, K, vocab_size, context_tokens = sizes
  if min(width, H) < 1 or width % H:
    raise ValueError(
      f"{path} must be a llama2.c file, got a width of {width} for {H} heads. "
      "Name another file."
    )
  config = ModelConfig(
    vocab_size=abs(vocab_size),
    num_layers=N,
    width=width,
    num_heads=H,
    num_kv_heads=K,
    head_dim=width // H,
    mlp_width=mlp_width,
    context_tokens=context_tokens,
    positional=Rope(1e4),
    tied_embeddings=bool(tied),
    norm_eps=1e-5,
  )
  return version, config


def _layout(
  version: int, config: ModelConfig
) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Yields the tensors' names and shapes in the file's order."""
  M, I, D = config.width, config.mlp_width, config.head_dim
  HD, KD = config.num_heads * D, config.num_kv_heads * D
  shapes = {
    "token_embedding": (config.vocab_size, M),
    "rms_att.{}": (M,),
    "wq.{}": (HD, M),
    "wk.{}": (KD, M),
    "wv.{}": (KD, M),
    "wo.{}": (M, HD),
    "rms_ffn.{}": (M,),
    "w1.{}": (I, M),
    "w2.{}": (M, I),
    "w3.{}": (I, M),
    "rms_final": (M,),
    "rope tables": (2, config.context_tokens, D // 2),
    "wcls": (config.vocab_size, M),
  }
  for name in _ORDERS[version]:
    if name == "wcls" and config.tied_embeddings:
      continue
    layers = range(config.num_layers) if "{}" in name else range(1)
    for n in layers:
      yield name.format(n), shapes[name]
