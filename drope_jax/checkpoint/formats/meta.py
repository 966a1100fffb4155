"""Meta's own Llama folders: params.json, consolidated.NN.pth, tokenizer.model.

The context, RoPE's factor and the special tokens lie in Meta's code. They
follow from which Llama it is, which no file says. Source:
github.com/meta-llama/llama-models, models/llama3/args.py and model.py.
"""

from collections.abc import Mapping, Sequence
import math
import pathlib
import types
from typing import Any, NamedTuple

from drope_jax.checkpoint.formats import (
  fields,
  leaves,
  meta_shards,
  rope_layout,
  tiktoken_json,
)
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.kinds import Flag, Kind, Number, Whole
from drope_jax.checkpoint.formats.source import Source
from drope_jax.checkpoint.formats.tensors import Tensor
from drope_jax.data import json_object
from drope_jax.model import config as model_config
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Llama3Rope, Rope

PARAMS = "params.json"

_KINDS: Mapping[str, Kind] = {
  "dim": Whole(),
  "n_layers": Whole(most=model_config.MOST_LAYERS),
  "n_heads": Whole(),
  "n_kv_heads": Whole(),
  "vocab_size": Whole(least=-1),  # -1: the tokenizer's.
  "multiple_of": Whole(),
  "ffn_dim_multiplier": Number(above=0),
  "norm_eps": Number(above=0),
  "rope_theta": Number(above=1),
  "use_scaled_rope": Flag(),
}
_DEFAULTS: Mapping[str, Any] = {
  "n_kv_heads": None,
  "vocab_size": -1,
  "ffn_dim_multiplier": 1.0,
  "rope_theta": 1e4,
  "use_scaled_rope": False,
}
_INERT = ("max_batch_size", "max_seq_len")  # Of its cache.

NAMES = {
  "embed/table": "tok_embeddings.weight",
  "layers/attention_norm/gain": "layers.{}.attention_norm.weight",
  "layers/attention/q/kernel": "layers.{}.attention.wq.weight",
  "layers/attention/k/kernel": "layers.{}.attention.wk.weight",
  "layers/attention/v/kernel": "layers.{}.attention.wv.weight",
  "layers/attention/o/kernel": "layers.{}.attention.wo.weight",
  "layers/mlp_norm/gain": "layers.{}.ffn_norm.weight",
  "layers/mlp/gate/kernel": "layers.{}.feed_forward.w1.weight",
  "layers/mlp/down/kernel": "layers.{}.feed_forward.w2.weight",
  "layers/mlp/up/kernel": "layers.{}.feed_forward.w3.weight",
  "final_norm/gain": "norm.weight",
  "head/kernel": "output.weight",
}
_EMBEDDING, _HEAD = NAMES["embed/table"], NAMES["head/kernel"]
_BUFFER = "rope.freqs"  # Of Llama 1 and 2: its theta says what it holds.


class Release(NamedTuple):
  """What a Llama is, beyond its params.json.

  Attributes:
    context_tokens: what it was trained at.
    theta: RoPE's.
    factor: of Llama 3.1's rule for RoPE; None for plain RoPE.
    tied: whether the head is the embedding, of which its file has a copy.
    special: the tokenizer's special tokens; None for a sentencepiece model.
  """

  context_tokens: int
  theta: float
  factor: float | None = None
  tied: bool = False
  special: Sequence[str] | None = None


_LLAMA_3_1 = Release(131_072, 5e5, 8.0, special=tiktoken_json.LLAMA_3_1)

RELEASES: Mapping[str, Release] = types.MappingProxyType(
  {
    "1": Release(2048, 1e4),
    "2": Release(4096, 1e4),
    "3": Release(8192, 5e5, special=tiktoken_json.LLAMA_3),
    "3.1": _LLAMA_3_1,
    "3.2": _LLAMA_3_1._replace(factor=32.0, tied=True),
    "3.3": _LLAMA_3_1,
  }
)
"""By its number; 3.2's are the text models.

Their factor is that of their published config.json, where the reference code
has 8 for all. Source: transformers 4.47, convert_llama_weights_to_hf.py.
"""


def is_folder(path: pathlib.Path) -> bool:
  """Returns whether a folder is Meta's, and not Hugging Face's."""
  return (path / PARAMS).exists() and not (path / "config.json").exists()


def open_folder(
  folder: pathlib.Path,
  *,
  llama: str | None,
  dtype: str,
  allow_nonfinite: bool,
) -> Source:
  """Returns the checkpoint in a folder; no weight is read beyond a tied head.

  Args:
    folder: with params.json.
    llama: which it is, of `RELEASES`.
    dtype: as `leaves.build` takes it.
    allow_nonfinite: likewise.

  Raises:
    FileNotFoundError: there are no weights.
    ValueError: `llama` is not what lies in the folder; a field is missing or
      unknown; a file is missing or damaged; the weights are not exactly those
      that params.json describes.
  """
  if llama is None or llama not in RELEASES:
    raise ValueError(
      f"{folder} must be said to be Llama {', '.join(RELEASES)}, since its "
      f"{PARAMS} does not say how long its context is, got {llama}. Name it "
      "with `llama`."
    )
  data = json_object.read(folder / PARAMS)
  files = meta_shards.open_files(folder)
  try:
    params = fields.read(data, _KINDS, defaults=_DEFAULTS, inert=_INERT)
    tensors = meta_shards.join(files, params["dim"])
    tensors.pop(_BUFFER, None)
    config = _config(params, tensors, llama)
    if config.tied_embeddings:
      del tensors[_HEAD]
    rope_layout.to_ours(tensors, config, NAMES)
    built = leaves.build(
      config, NAMES, tensors, dtype=dtype, allow_nonfinite=allow_nonfinite
    )
  except ValueError as error:
    raise ValueError(f"{folder}: {error}") from error
  special = RELEASES[llama].special
  return Source(
    config,
    built,
    lambda scratch: _tokenizer(folder, scratch, special),
    facts={"format": "meta", "llama": llama, "files": len(files)},
    adds_bos=True,
  )


def _config(
  params: Mapping[str, Any], tensors: Mapping[str, Tensor], llama: str
) -> ModelConfig:
  for name in (_EMBEDDING, _HEAD):
    if name not in tensors:
      raise ValueError(
        f"An embedding and a head are needed, got no {name}. Fetch the files "
        "again."
      )
  _require_release(params, tensors, llama)
  release = RELEASES[llama]
  V = tensors[_EMBEDDING].shape[0]
  if (got := params["vocab_size"]) not in (-1, V):
    raise ValueError(
      f"vocab_size must be the embedding's {V} rows, got {got}. Use the "
      f"{PARAMS} that the weights were saved with."
    )
  width, H = params["dim"], params["n_heads"]
  return ModelConfig(
    vocab_size=V,
    num_layers=params["n_layers"],
    width=width,
    num_heads=H,
    num_kv_heads=params["n_kv_heads"] or H,
    head_dim=width // H,
    mlp_width=_mlp_width(params, width),
    context_tokens=release.context_tokens,
    positional=(
      Llama3Rope(release.theta, release.factor)
      if release.factor
      else Rope(release.theta)
    ),
    tied_embeddings=release.tied,
    norm_eps=float(params["norm_eps"]),
  )


def _require_release(
  params: Mapping[str, Any], tensors: Mapping[str, Tensor], llama: str
) -> None:
  """Raises ValueError where the folder holds another Llama, if it shows."""
  release = RELEASES[llama]
  is_tied = tensors_lib.same(tensors[_HEAD], tensors[_EMBEDDING])
  for name, got, want in (
    ("rope_theta", params["rope_theta"], release.theta),
    (
      "use_scaled_rope",
      params["use_scaled_rope"],
      release.factor is not None,
    ),
    ("a head that is its embedding", is_tied, release.tied),
  ):
    if got != want:
      raise ValueError(
        f"Llama {llama} must have {name}: {want}, got {got}. Name with "
        "`llama` which one this is."
      )


def _mlp_width(params: Mapping[str, Any], width: int) -> int:
  """Returns two thirds of 4 M, scaled, up to a multiple."""
  multiple = params["multiple_of"]
  scaled = params["ffn_dim_multiplier"] * int(8 * width / 3)
  return math.ceil(int(scaled) / multiple) * multiple


def _tokenizer(
  folder: pathlib.Path, scratch: pathlib.Path, special: Sequence[str] | None
) -> pathlib.Path | None:
  path = folder / "tokenizer.model"
  if not path.exists():
    return None
  if special is None:
    return path
  return tiktoken_json.write(path, special, scratch)
