"""The model families of Hugging Face folders: one table of names each.

A name's {} is the layer's number. A family's tables say what its weights are
called and which fields of config.json it has beyond those that all share.
"""

from collections.abc import Mapping
import dataclasses
import types
from typing import Any

from drope_jax.model.config import ModelConfig

_LAYER = "model.layers.{}."

_LLAMA = {
  "embed/table": "model.embed_tokens.weight",
  "layers/attention_norm/gain": _LAYER + "input_layernorm.weight",
  "layers/attention/q/kernel": _LAYER + "self_attn.q_proj.weight",
  "layers/attention/k/kernel": _LAYER + "self_attn.k_proj.weight",
  "layers/attention/v/kernel": _LAYER + "self_attn.v_proj.weight",
  "layers/attention/o/kernel": _LAYER + "self_attn.o_proj.weight",
  "layers/mlp_norm/gain": _LAYER + "post_attention_layernorm.weight",
  "layers/mlp/gate/kernel": _LAYER + "mlp.gate_proj.weight",
  "layers/mlp/up/kernel": _LAYER + "mlp.up_proj.weight",
  "layers/mlp/down/kernel": _LAYER + "mlp.down_proj.weight",
  "final_norm/gain": "model.norm.weight",
  "head/kernel": "lm_head.weight",
}
_QKV_BIASES = {
  "layers/attention/q/bias": _LAYER + "self_attn.q_proj.bias",
  "layers/attention/k/bias": _LAYER + "self_attn.k_proj.bias",
  "layers/attention/v/bias": _LAYER + "self_attn.v_proj.bias",
}
_QK_NORMS = {
  "layers/attention/q_norm/gain": _LAYER + "self_attn.q_norm.weight",
  "layers/attention/k_norm/gain": _LAYER + "self_attn.k_norm.weight",
}

HEAD = _LLAMA["head/kernel"]
O_BIAS = _LAYER + "self_attn.o_proj.bias"
"""Of families whose attention_bias gives biases to q, k, v and o alike."""

BUFFERS = tuple(
  f"rotary_emb.{name}" for name in ("inv_freq", "cos_cached", "sin_cached")
)
"""How the names of tensors end that follow from the config: no weights."""


@dataclasses.dataclass(frozen=True)
class Family:
  """What config.json and the weights of one family hold.

  Attributes:
    architecture: the causal language model's class in transformers.
    names: our path to their name, for every path that the family may have.
    defaults: the family's own fields, and what it is where one is absent.
    biases: whether q, k and v always have biases (Qwen2), or where
      attention_bias says so, and then o too.
  """

  architecture: str
  names: Mapping[str, str]
  defaults: Mapping[str, Any]
  biases: bool = False


_BY_LAYER = {
  "use_sliding_window": False,
  "sliding_window": None,
  "layer_types": None,
}

_DROPE = {"attention_type": "nope", "softmax_scale": None, "auto_map": None}

FAMILIES: Mapping[str, Family] = types.MappingProxyType(
  {
    "llama": Family(
      "LlamaForCausalLM",
      _LLAMA | _QKV_BIASES,
      {"head_dim": None, "attention_bias": False, "mlp_bias": False},
    ),
    "mistral": Family(
      "MistralForCausalLM", _LLAMA, {"head_dim": None, "sliding_window": 4096}
    ),
    "qwen2": Family(
      "Qwen2ForCausalLM",
      _LLAMA | _QKV_BIASES,
      _BY_LAYER | {"head_dim": None, "max_window_layers": 28},
      biases=True,
    ),
    "qwen3": Family(
      "Qwen3ForCausalLM",
      _LLAMA | _QKV_BIASES | _QK_NORMS,
      _BY_LAYER
      | {"head_dim": 128, "max_window_layers": 28, "attention_bias": False},
    ),
    "smollm3": Family(
      "SmolLM3ForCausalLM",
      _LLAMA | _QKV_BIASES,
      _BY_LAYER
      | {
        "head_dim": None,
        "attention_bias": False,
        "mlp_bias": False,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "rope_theta": 2e6,
        "tie_word_embeddings": True,
      },
    ),
    "llama_drope": Family(
      "DroPELlamaForCausalLM",
      _LLAMA | _QK_NORMS,
      _DROPE | {"head_dim": None, "attention_bias": False, "mlp_bias": False},
    ),
    "qwen2_drope": Family(
      "DroPEQwen2ForCausalLM",
      _LLAMA | _QKV_BIASES | _QK_NORMS,
      _DROPE | _BY_LAYER | {"head_dim": None, "max_window_layers": 28},
      biases=True,
    ),
  }
)
"""By config.json's model_type. Defaults are those of transformers 5.

The last two are of the DroPE paper's repository (github.com/SakanaAI/DroPE).
"""


def has_o_bias(family: Family, config: ModelConfig) -> bool:
  """Returns whether the family's attention writes with a bias."""
  return config.qkv_bias and not family.biases
