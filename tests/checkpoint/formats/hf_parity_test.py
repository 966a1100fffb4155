"""An imported folder's logits are transformers', at every position."""

import json

import jax
import numpy as np
import pytest

from drope_jax.checkpoint.formats import hf
from drope_jax.model import transformer

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 1e4,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 128,
}
# A power of two, so that no frequency is rounded.
YARN = {
  "rope_type": "yarn",
  "rope_theta": 2.0**16,
  "factor": 4.0,
  "original_max_position_embeddings": 1024,
}
# What transformers does not know here, it keeps as fields.
GPT2 = {"intermediate_size": None, "num_key_value_heads": None}
CASES = {
  "Llama, MHA": ("Llama", {"num_key_value_heads": 4}),
  "Llama, MQA, biases": (
    "Llama",
    {"num_key_value_heads": 1, "attention_bias": True},
  ),
  "Llama, tied, wide heads, Llama 3.1's positions": (
    "Llama",
    {"tie_word_embeddings": True, "head_dim": 16, "rope_parameters": LLAMA3},
  ),
  "Llama, YaRN": (
    "Llama",
    {
      "max_position_embeddings": 4096,
      "rope_parameters": YARN,
    },
  ),
  "Llama, LongRoPE": (
    "Llama",
    {
      "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 2.0**16,
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": [1.0, 2.0, 4.0, 1e30],
        "original_max_position_embeddings": 256,
      },
    },
  ),
  "Llama, linear": (
    "Llama",
    {
      "rope_parameters": {
        "rope_type": "linear",
        "rope_theta": 1e4,
        "factor": 4.0,
      }
    },
  ),
  "Qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
  "Qwen2, windows in the upper layer": (
    "Qwen2",
    {
      "num_key_value_heads": 1,
      "use_sliding_window": True,
      "sliding_window": 100,
      "max_window_layers": 1,
    },
  ),
  "Qwen3": ("Qwen3", {"head_dim": 16}),
  "OLMoE, one expert": ("Olmoe", {"num_experts": 1, "num_experts_per_tok": 1}),
  "OLMo 2": ("Olmo2", {}),
  "OLMo 2, wide heads, biases, MHA": (
    "Olmo2",
    {"head_dim": 16, "attention_bias": True, "num_key_value_heads": 4},
  ),
  "OLMo 3, YaRN in every fourth layer": (
    "Olmo3",
    {
      "num_hidden_layers": 4,
      "sliding_window": 100,
      "rope_parameters": {
        "full_attention": YARN,
        "sliding_attention": {"rope_type": "default", "rope_theta": 2.0**16},
      },
      "max_position_embeddings": 4096,
    },
  ),
  "Gemma 2, two caps, a scale": (
    "Gemma2",
    {
      "num_hidden_layers": 3,
      "head_dim": 16,
      "query_pre_attn_scalar": 24,
      "attn_logit_softcapping": 2.0,
      "final_logit_softcapping": 1.5,
      "sliding_window": 100,
    },
  ),
  "Gemma 2, no caps or windows": (
    "Gemma2",
    {
      "head_dim": 16,
      "attn_logit_softcapping": None,
      "final_logit_softcapping": None,
      "layer_types": ["full_attention"] * 2,
    },
  ),
  "Gemma 3, two thetas, a scale": (
    "Gemma3",
    {
      "num_hidden_layers": 6,
      "head_dim": 16,
      "query_pre_attn_scalar": 24,
      "sliding_window": 100,
      "rope_parameters": {
        "full_attention": {
          "rope_type": "linear",
          "rope_theta": 2.0**20,
          "factor": 8.0,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 2.0**16},
      },
    },
  ),
  "Granite": (
    "Granite",
    {
      "embedding_multiplier": 3.0,
      "attention_multiplier": 0.25,
      "residual_multiplier": 0.3,
      "logits_scaling": 0.7,
    },
  ),
  "GPT-NeoX, half of the channels rotated": (
    "GPTNeoX",
    {
      "num_key_value_heads": None,
      "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 2.0**16,
        "partial_rotary_factor": 0.5,
      },
    },
  ),
  "GPT-NeoX, all channels, one after the other": (
    "GPTNeoX",
    {
      "num_key_value_heads": None,
      "use_parallel_residual": False,
      "hidden_act": "gelu_new",
      "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 2.0**16,
        "partial_rotary_factor": 1.0,
      },
    },
  ),
  "GPT-2": ("GPT2", GPT2),
  "GPT-2, its own MLP width, not tied": (
    "GPT2",
    GPT2 | {"n_inner": 48, "tie_word_embeddings": False},
  ),
  "Phi-3, a window": ("Phi3", {"sliding_window": 100}),
  "Phi-3, LongRoPE": (
    "Phi3",
    {
      "num_key_value_heads": 4,
      "max_position_embeddings": 1024,
      "original_max_position_embeddings": 256,
      "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 2.0**16,
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": [1.0, 2.0, 4.0, 1e30],
      },
    },
  ),
  "Seed-OSS": ("SeedOss", {"head_dim": 16}),
  "ERNIE 4.5": (
    "Ernie4_5",
    {
      "head_dim": 16,
      "rope_parameters": {"rope_type": "default", "rope_theta": 2.0**16},
    },
  ),
  "Mistral, a window": ("Mistral", {"sliding_window": 100}),
  "Mistral, none": ("Mistral", {"sliding_window": None, "head_dim": 16}),
  "SmolLM3": ("SmolLM3", {"num_hidden_layers": 4}),
  "SmolLM3, its own layers, windows": (
    "SmolLM3",
    {
      "no_rope_layers": [0, 1],
      "use_sliding_window": True,
      "sliding_window": 100,
      "tie_word_embeddings": False,
    },
  ),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_are_transformers(
  name, make_theirs, params_of, tokens_BS, tmp_path
):
  family, settings = CASES[name]
  theirs = make_theirs(family, **settings)
  theirs.save_pretrained(tmp_path)
  source = hf.open_folder(tmp_path, dtype="keep", allow_nonfinite=False)
  forward = jax.jit(transformer.forward, static_argnums=0)
  got_BSV = forward(source.config, params_of(source), tokens_BS)
  want_BSV = theirs(torch.asarray(tokens_BS)).logits.numpy()
  assert 0.3 < np.std(want_BSV) < 3, "logits are not of order one"
  # Of logits up to 4; float32 sums in another order differ by up to 1.1e-5.
  np.testing.assert_allclose(got_BSV, want_BSV, atol=2e-5)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "shards"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool])
@torch.no_grad()
def test_a_base_model_of_gpt2_is_read_with_its_buffers(
  make_theirs, tmp_path, kind, dtype
):
  """The first GPT-2s lie so: no prefix, and the causal mask as a tensor."""
  theirs = make_theirs("GPT2", **GPT2)
  theirs.save_pretrained(tmp_path / "whole")
  theirs.save_pretrained(tmp_path / "base")
  file = tmp_path / "base" / "model.safetensors"
  state = {
    name.removeprefix("transformer."): weight
    for name, weight in safetensors_torch.load_file(file).items()
  }
  assert "wte.weight" in state
  state["h.0.attn.bias"] = torch.ones(1, 1, 4, 4, dtype=dtype)
  state["h.0.attn.masked_bias"] = torch.tensor(-1e4)
  if kind == "bin":
    file.unlink()
    torch.save(state, file.with_name("pytorch_model.bin"))
  else:
    safetensors_torch.save_file(state, file)
  if kind == "shards":
    file = file.rename(file.with_name("one.safetensors"))
    index = {"weight_map": dict.fromkeys(state, file.name)}
    (file.parent / "model.safetensors.index.json").write_text(json.dumps(index))
  whole, base = (
    hf.open_folder(tmp_path / name, dtype="keep", allow_nonfinite=False)
    for name in ("whole", "base")
  )
  assert base.config == whole.config
  for path, leaf in whole.leaves.items():
    region = tuple(slice(0, size) for size in leaf.shape)
    np.testing.assert_array_equal(
      base.leaves[path].read(region), leaf.read(region)
    )
