"""The model families of Hugging Face folders: one record each.

A record says what the family's weights are called, and by which fields of
config.json it makes each choice. Readers and writers go by the record. Only
`hf_architecture`, which orders the families, and `export`, which knows what
other clients make of them, name one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import types
from typing import Any

import numpy as np

from drope_jax import parameters
from drope_jax.checkpoint.formats import leaves, rope_layout
from drope_jax.checkpoint.formats.hf_choices import (
  AttentionType,
  Choice,
  Constant,
  Embeddings,
  EqualHeads,
  Heads,
  Multipliers,
  Norms,
  ParallelNorms,
  QkNorm,
)
from drope_jax.checkpoint.formats.hf_logits import (
  CappedLogits,
  NoSoftmaxScale,
  QueryPreAttnScalar,
  ScaleByHead,
  SoftmaxScale,
)
from drope_jax.checkpoint.formats.hf_positions import (
  LeadingPositions,
  LearnedPositions,
  NoPositions,
  Positions,
  PositionsByLayer,
  PositionsByType,
)
from drope_jax.checkpoint.formats.hf_projections import (
  AllBiases,
  AttentionBias,
  Biases,
  DenseMlp,
  GeluMlp,
  InputBias,
  Mlp,
  NoBiases,
  PlainMlp,
  SingleExpert,
)
from drope_jax.checkpoint.formats.hf_windows import (
  OneWindow,
  UpperWindows,
  Windows,
  WindowsByLayer,
  WindowsByType,
)
from drope_jax.model.config import ModelConfig

_LAYER = "model.layers.{}."

_LLAMA = {
  "embed/table": "model.embed_tokens.weight",
  "layers/attention_norm/gain": _LAYER + "input_layernorm.weight",
  "layers/attention/q/kernel": _LAYER + "self_attn.q_proj.weight",
  "layers/attention/k/kernel": _LAYER + "self_attn.k_proj.weight",
  "layers/attention/v/kernel": _LAYER + "self_attn.v_proj.weight",
  "layers/attention/o/kernel": _LAYER + "self_attn.o_proj.weight",
  "layers/attention/q/bias": _LAYER + "self_attn.q_proj.bias",
  "layers/attention/k/bias": _LAYER + "self_attn.k_proj.bias",
  "layers/attention/v/bias": _LAYER + "self_attn.v_proj.bias",
  "layers/attention/q_norm/gain": _LAYER + "self_attn.q_norm.weight",
  "layers/attention/k_norm/gain": _LAYER + "self_attn.k_norm.weight",
  "layers/mlp_norm/gain": _LAYER + "post_attention_layernorm.weight",
  "layers/mlp/gate/kernel": _LAYER + "mlp.gate_proj.weight",
  "layers/mlp/up/kernel": _LAYER + "mlp.up_proj.weight",
  "layers/mlp/down/kernel": _LAYER + "mlp.down_proj.weight",
  "final_norm/gain": "model.norm.weight",
  "head/kernel": "lm_head.weight",
}
_ONE_EXPERT = {
  f"layers/mlp/{name}/kernel": f"{_LAYER}mlp.experts.0.{name}_proj.weight"
  for name in ("gate", "up", "down")
}

_POST_NORMS = {
  "layers/attention_post_norm/gain": _LLAMA["layers/mlp_norm/gain"],
  "layers/mlp_post_norm/gain": _LAYER + "post_feedforward_layernorm.weight",
}

_NORMS_ON_BOTH_SIDES = {
  **_POST_NORMS,
  "layers/mlp_norm/gain": _LAYER + "pre_feedforward_layernorm.weight",
}


def _with_biases(
  norms: Mapping[str, str], projections: Mapping[str, str]
) -> dict[str, str]:
  """Returns names of the weight and bias of modules, by our modules' paths."""
  return {
    f"{ours}/{part}": f"{theirs}.{name}"
    for weight, modules in (("gain", norms), ("kernel", projections))
    for ours, theirs in modules.items()
    for part, name in ((weight, "weight"), ("bias", "bias"))
  }


_BLOCK = "transformer.h.{}."
_GPT2 = {
  "embed/table": "transformer.wte.weight",
  "embed/positions": "transformer.wpe.weight",
  "head/kernel": "lm_head.weight",
  **_with_biases(
    norms={
      "layers/attention_norm": _BLOCK + "ln_1",
      "layers/mlp_norm": _BLOCK + "ln_2",
      "final_norm": "transformer.ln_f",
    },
    projections={
      "layers/attention/q": _BLOCK + "attn.q",
      "layers/attention/k": _BLOCK + "attn.k",
      "layers/attention/v": _BLOCK + "attn.v",
      "layers/attention/o": _BLOCK + "attn.c_proj",
      "layers/mlp/up": _BLOCK + "mlp.c_fc",
      "layers/mlp/down": _BLOCK + "mlp.c_proj",
    },
  ),
}
_NEOX_LAYER = "gpt_neox.layers.{}."
_NEOX = {
  "embed/table": "gpt_neox.embed_in.weight",
  "head/kernel": "embed_out.weight",
  **_with_biases(
    norms={
      "layers/attention_norm": _NEOX_LAYER + "input_layernorm",
      "layers/mlp_norm": _NEOX_LAYER + "post_attention_layernorm",
      "final_norm": "gpt_neox.final_layer_norm",
    },
    projections={
      "layers/attention/q": _NEOX_LAYER + "attention.query",
      "layers/attention/k": _NEOX_LAYER + "attention.key",
      "layers/attention/v": _NEOX_LAYER + "attention.value",
      "layers/attention/o": _NEOX_LAYER + "attention.dense",
      "layers/mlp/up": _NEOX_LAYER + "mlp.dense_h_to_4h",
      "layers/mlp/down": _NEOX_LAYER + "mlp.dense_4h_to_h",
    },
  ),
}
_NOT_OF_GPT2 = (
  "attention_bias",
  "num_key_value_heads",
  "head_dim",
  "original_max_position_embeddings",
  "rope_theta",
  "rope_scaling",
  "rope_parameters",
  "layer_types",
  "mlp_bias",
  "use_sliding_window",
  "partial_rotary_factor",
  "rope_interleaved",
  "use_mrope",
)

_ATTENTION_BIAS = AttentionBias(o_bias=_LAYER + "self_attn.o_proj.bias")

BUFFERS = tuple(
  f"rotary_emb.{name}" for name in ("inv_freq", "cos_cached", "sin_cached")
)
"""How the names of tensors end that follow from the config: no weights."""


@dataclasses.dataclass(frozen=True)
class Family:
  """What config.json and the weights of one family hold.

  Attributes:
    architecture: the causal language model's class.
    heads, embeddings, norms, qk_norm, biases, positions, windows, mlp,
      softmax_scale: how config.json says each choice.
    interleaved: whether RoPE rotates channels (2i, 2i + 1) of a head, and not
      (i, i + D/2), so that q and k are stored in another order.
    kernels_as_ours: whether the matrices of layers are [in, out].
    merged: tensors that hold the outputs of several parameters, which `names`
      has as if they were apart: the tensor's name to our paths, in order.
    names: our path to their name, in which {} is the layer's number; for every
      path that the family may have.
    merged_by_head: whether they hold them head by head, the first head of each
      before the second.
    prefix: what the names of tensors begin with, all but the head's; those of
      a base model lack it.
    buffers: how the names of tensors end that are no weights.
    renamed: fields of config.json by their name in `hf_config` and the choices,
      to the family's own; None: it has no such field.
    defaults: of fields that all families share, where this one's are others.
  """

  architecture: str
  heads: Choice = Heads()
  embeddings: Embeddings = Embeddings()
  norms: Choice = Norms()
  qk_norm: Choice = QkNorm()
  biases: Choice = Biases()
  positions: Positions = Positions()
  windows: Windows = Windows()
  mlp: Choice = Mlp()
  softmax_scale: NoSoftmaxScale = NoSoftmaxScale()
  interleaved: bool = False
  kernels_as_ours: bool = False
  merged: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  merged_by_head: bool = False
  names: Mapping[str, str] = dataclasses.field(default_factory=lambda: _LLAMA)
  prefix: str = ""
  buffers: tuple[str, ...] = BUFFERS
  renamed: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def choices(self) -> tuple[Choice, ...]:
    """All of its choices."""
    return (
      self.heads,
      self.embeddings,
      self.norms,
      self.qk_norm,
      self.biases,
      self.positions,
      self.windows,
      self.mlp,
      self.softmax_scale,
    )

  def order(self, config: ModelConfig) -> np.ndarray | None:
    """Returns which channel of its heads each of ours is; None: the same."""
    if self.interleaved:
      return rope_layout.interleaved(config.head_dim)
    return self.positions.order(config)

  def shape(self, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a parameter's tensors, as if they were apart."""
    return leaves.source_shape(path, shape, self.kernels_as_ours)

  def merged_axis(self, name: str) -> int:
    """Returns the axis of a merged tensor along which its parts lie."""
    first = self.merged[name][0]
    is_matrix = parameters.describe(first).is_matrix
    return int(is_matrix and self.kernels_as_ours)

  def merged_shape(
    self, name: str, shapes: Sequence[tuple[int, ...]]
  ) -> tuple[int, ...]:
    """Returns the shape of a merged tensor, by its parts'."""
    axis, whole = self.merged_axis(name), list(shapes[0])
    whole[axis] = sum(shape[axis] for shape in shapes)
    return tuple(whole)

  def constants(self, config: ModelConfig) -> tuple[Constant, ...]:
    """Returns the tensors that its folder has beside the model's."""
    found = (choice.constants(config) for choice in self.choices)
    return sum(found, ())


FAMILIES: Mapping[str, Family] = types.MappingProxyType(
  {
    "llama": Family(
      "LlamaForCausalLM",
      heads=Heads(divide_width=True),
      biases=_ATTENTION_BIAS,
      mlp=DenseMlp(),
    ),
    "mistral": Family("MistralForCausalLM", windows=OneWindow()),
    "qwen2": Family(
      "Qwen2ForCausalLM", biases=Biases(always=True), windows=UpperWindows()
    ),
    "qwen3": Family(
      "Qwen3ForCausalLM",
      heads=Heads(default=128),
      qk_norm=QkNorm("head"),
      biases=_ATTENTION_BIAS,
      windows=UpperWindows(),
    ),
    "smollm3": Family(
      "SmolLM3ForCausalLM",
      biases=_ATTENTION_BIAS,
      positions=PositionsByLayer(),
      windows=WindowsByLayer(),
      mlp=DenseMlp(),
      defaults={"rope_theta": 2e6, "tie_word_embeddings": True},
    ),
    "olmoe": Family(
      "OlmoeForCausalLM",
      heads=Heads(fill_width=True),
      qk_norm=QkNorm("joint"),
      biases=_ATTENTION_BIAS,
      positions=Positions(no_rotation="linear"),
      mlp=SingleExpert(router=_LAYER + "mlp.gate.weight"),
      names=_LLAMA | _ONE_EXPERT,
      defaults={"rms_norm_eps": 1e-5},
    ),
    "olmo2": Family(
      "Olmo2ForCausalLM",
      norms=Norms("post"),
      qk_norm=QkNorm("joint"),
      biases=_ATTENTION_BIAS,
      positions=Positions(no_rotation="linear", kind_field="type"),
      names=_LLAMA | _POST_NORMS,
      defaults={"rms_norm_eps": 1e-5},
    ),
    "olmo3": Family(
      "Olmo3ForCausalLM",
      norms=Norms("post"),
      qk_norm=QkNorm("joint"),
      biases=_ATTENTION_BIAS,
      positions=PositionsByType(no_rotation="linear"),
      windows=WindowsByType(period=4),
      names=_LLAMA | _POST_NORMS,
      defaults={"rms_norm_eps": 1e-5, "rope_theta": 5e5},
    ),
    "gemma2": Family(
      "Gemma2ForCausalLM",
      heads=Heads(default=256, divide_width=True),
      embeddings=Embeddings(by_root_of_width=True),
      norms=Norms("both", gain_offset=1.0),
      biases=_ATTENTION_BIAS,
      positions=Positions(no_rotation="linear"),
      windows=WindowsByType(period=2),
      mlp=GeluMlp(),
      softmax_scale=CappedLogits(),
      names=_LLAMA | _NORMS_ON_BOTH_SIDES,
      defaults={"tie_word_embeddings": True},
    ),
    "gemma3_text": Family(
      "Gemma3ForCausalLM",
      heads=Heads(default=256, divide_width=True),
      embeddings=Embeddings(by_root_of_width=True),
      norms=Norms("both", gain_offset=1.0),
      qk_norm=QkNorm("head"),
      biases=_ATTENTION_BIAS,
      positions=PositionsByType(
        no_rotation="linear", period=6, windowed_theta="rope_local_base_freq"
      ),
      windows=WindowsByType(period=6),
      mlp=GeluMlp(),
      softmax_scale=QueryPreAttnScalar(),
      names=_LLAMA | _NORMS_ON_BOTH_SIDES,
      defaults={"rope_theta": 1e6, "tie_word_embeddings": True},
    ),
    "gpt_neox": Family(
      "GPTNeoXForCausalLM",
      heads=EqualHeads(),
      norms=ParallelNorms(kind="layer"),
      biases=AllBiases(),
      positions=LeadingPositions(no_rotation="linear"),
      mlp=PlainMlp("gelu", has_width=True),
      merged={
        f"{_NEOX_LAYER}attention.query_key_value.{name}": [
          f"layers/attention/{x}/{part}" for x in "qkv"
        ]
        for part, name in (("kernel", "weight"), ("bias", "bias"))
      },
      merged_by_head=True,
      names=_NEOX,
      prefix="gpt_neox.",
      buffers=(
        ".attention.bias",
        ".attention.masked_bias",
        *(f".attention.{name}" for name in BUFFERS),
      ),
      renamed={
        "rms_norm_eps": "layer_norm_eps",
        "num_key_value_heads": None,
        "head_dim": None,
      },
      defaults={"rms_norm_eps": 1e-5, "rope_theta": None},
    ),
    "granite": Family(
      "GraniteForCausalLM",
      embeddings=Multipliers(),
      biases=_ATTENTION_BIAS,
      mlp=DenseMlp(),
      softmax_scale=SoftmaxScale("attention_multiplier", 1.0),
    ),
    "gpt2": Family(
      "GPT2LMHeadModel",
      heads=EqualHeads(),
      norms=Norms(kind="layer"),
      biases=AllBiases(),
      positions=LearnedPositions(table=_GPT2["embed/positions"]),
      mlp=PlainMlp("gelu_new", has_width=False),
      softmax_scale=ScaleByHead(),
      kernels_as_ours=True,
      merged={
        f"{_BLOCK}attn.c_attn.{name}": [
          f"layers/attention/{x}/{part}" for x in "qkv"
        ]
        for part, name in (("kernel", "weight"), ("bias", "bias"))
      },
      names=_GPT2,
      prefix="transformer.",
      buffers=(".attn.bias", ".attn.masked_bias"),
      renamed={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
        **dict.fromkeys(_NOT_OF_GPT2),
      },
      defaults={"rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    ),
    "seed_oss": Family(
      "SeedOssForCausalLM",
      heads=Heads(default=128, null_is_absent=False),
      biases=InputBias(),
      mlp=DenseMlp(),
    ),
    "ernie4_5": Family(
      "Ernie4_5ForCausalLM",
      heads=Heads(default=128, null_is_absent=False),
      biases=NoBiases(),
      interleaved=True,
      defaults={
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "tie_word_embeddings": True,
      },
    ),
    "phi3": Family(
      "Phi3ForCausalLM",
      windows=OneWindow(),
      merged={
        _LAYER + "self_attn.qkv_proj.weight": [
          f"layers/attention/{x}/kernel" for x in "qkv"
        ],
        _LAYER + "mlp.gate_up_proj.weight": [
          f"layers/mlp/{x}/kernel" for x in ("gate", "up")
        ],
      },
      defaults={
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "original_max_position_embeddings": 4096,
      },
    ),
    "llama_drope": Family(
      "DroPELlamaForCausalLM",
      qk_norm=AttentionType(_LLAMA),
      biases=_ATTENTION_BIAS,
      positions=NoPositions(),
      mlp=DenseMlp(),
      softmax_scale=SoftmaxScale(),
    ),
    "qwen2_drope": Family(
      "DroPEQwen2ForCausalLM",
      qk_norm=AttentionType(_LLAMA),
      biases=Biases(always=True),
      positions=NoPositions(),
      windows=UpperWindows(are_written=False),
      softmax_scale=SoftmaxScale(),
    ),
  }
)
"""By config.json's model_type. Defaults are those of transformers 5.

The last two are of the DroPE paper's repository (github.com/SakanaAI/DroPE,
custom_models/drope.py and attention.py), whose code they run with.
"""
