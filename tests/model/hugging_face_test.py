"""Logits of models whose weights come from Hugging Face are transformers'."""

import numpy as np
import pytest

from drope_jax import trees
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Llama3Rope, Nope, Pattern, Rope, Yarn

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Short prompts hide mistakes in RoPE.
TOKENS = 640
SIZES = {
  "vocab_size": 64,
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "max_position_embeddings": 1024,
  "pad_token_id": None,
}

# Our path within the tree: theirs. Under layers, the parts of one layer.
ENDS = {
  "embed/table": "model.embed_tokens.weight",
  "final_norm/gain": "model.norm.weight",
  "head/kernel": "lm_head.weight",
}
LAYER = {
  "attention_norm/gain": "input_layernorm.weight",
  "attention/q/kernel": "self_attn.q_proj.weight",
  "attention/q/bias": "self_attn.q_proj.bias",
  "attention/k/kernel": "self_attn.k_proj.weight",
  "attention/k/bias": "self_attn.k_proj.bias",
  "attention/v/kernel": "self_attn.v_proj.weight",
  "attention/v/bias": "self_attn.v_proj.bias",
  "attention/q_norm/gain": "self_attn.q_norm.weight",
  "attention/k_norm/gain": "self_attn.k_norm.weight",
  "attention/o/kernel": "self_attn.o_proj.weight",
  "mlp_norm/gain": "post_attention_layernorm.weight",
  "mlp/gate/kernel": "mlp.gate_proj.weight",
  "mlp/up/kernel": "mlp.up_proj.weight",
  "mlp/down/kernel": "mlp.down_proj.weight",
}
# Norms after attention and the MLP. That of attention has the name that Llama
# has for the norm before the MLP.
POST_NORMS = {
  "attention_post_norm/gain": "post_attention_layernorm.weight",
  "mlp_norm/gain": "pre_feedforward_layernorm.weight",
  "mlp_post_norm/gain": "post_feedforward_layernorm.weight",
}


def _rope(kind="default", **parameters):
  """What transformers calls the positions."""
  return {"rope_type": kind, "rope_theta": 1e4, **parameters}


def _config_class(family):
  text = f"{family}TextConfig"  # Of families with images.
  return getattr(transformers, text, None) or getattr(
    transformers, f"{family}Config"
  )


def _with_random_weights(theirs):
  """Fills in weights of which no gain is one and no bias zero."""
  generator = torch.Generator().manual_seed(0)
  for name, weight in theirs.named_parameters():
    weight.normal_(generator=generator)
    if name.endswith("norm.weight"):
      zero = theirs.config.model_type.startswith("gemma")  # Adds one by itself.
      weight.mul_(0.3).add_(0 if zero else 1)
    else:
      weight.mul_(0.3 if weight.ndim == 1 else weight.shape[-1] ** -0.5)
  return theirs.eval()


def _config(theirs, **choices):
  """Sizes as they are there; what differs between families is a choice."""
  hf = theirs.config
  head_dim = getattr(hf, "head_dim", None)
  return ModelConfig(
    vocab_size=hf.vocab_size,
    num_layers=hf.num_hidden_layers,
    width=hf.hidden_size,
    num_heads=hf.num_attention_heads,
    num_kv_heads=hf.num_key_value_heads,
    head_dim=head_dim or hf.hidden_size // hf.num_attention_heads,
    mlp_width=hf.intermediate_size,
    context_tokens=hf.max_position_embeddings,
    tied_embeddings=hf.tie_word_embeddings,
    norm_eps=hf.rms_norm_eps,
    **choices,
  )


def _params(theirs, config):
  """Their weights in our schema: kernels [in, out], layers stacked."""
  state = {name: x.numpy() for name, x in theirs.state_dict().items()}
  if config.tied_embeddings:
    del state["lm_head.weight"]

  def take(path, name):
    weight = state.pop(name)
    if path.endswith("gain") and theirs.config.model_type.startswith("gemma"):
      weight = 1 + weight
    return weight.T if path.endswith("kernel") else weight

  flat = {
    path: take(path, name) for path, name in ENDS.items() if name in state
  }
  layer = LAYER if config.norm_placement == "pre" else LAYER | POST_NORMS
  for path, name in layer.items():
    names = [f"model.layers.{n}.{name}" for n in range(config.num_layers)]
    if names[0] in state:
      flat[f"layers/{path}"] = np.stack([take(path, name) for name in names])
  assert not state, f"weights left over: {sorted(state)}"
  params = trees.unflatten(flat)
  trees.require_same_leaves(transformer.param_shapes(config), params, "theirs")
  return params


# Their family and settings; our choices.
CASES = {
  "Llama, MHA": ("Llama", {"num_key_value_heads": 4}, {}),
  "Llama, GQA, tied, wide heads, Llama 3.1's positions": (
    "Llama",
    {
      "num_key_value_heads": 2,
      "tie_word_embeddings": True,
      "head_dim": 16,
      "rms_norm_eps": 1e-3,
      "rope_parameters": _rope(
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=128,
      ),
    },
    {"positional": Llama3Rope(1e4, 8.0, 128)},
  ),
  # A power of two, so that no frequency is rounded: YaRN's, off by a last
  # place at 640 tokens, come to 1e-5.
  "Llama, MQA, YaRN": (
    "Llama",
    {
      "num_key_value_heads": 1,
      "head_dim": 16,
      "max_position_embeddings": 4096,
      "rope_parameters": _rope(
        "yarn", factor=4.0, original_max_position_embeddings=1024
      )
      | {"rope_theta": 2.0**16},
    },
    {"positional": Yarn(2.0**16, 4.0, 1024)},
  ),
  "Qwen2, GQA, tied": (
    "Qwen2",
    {"num_key_value_heads": 2, "tie_word_embeddings": True},
    {"qkv_bias": True},
  ),
  "Qwen2, MQA, another theta": (
    "Qwen2",
    {
      "num_key_value_heads": 1,
      "rope_parameters": _rope() | {"rope_theta": 1e6},
    },
    {"qkv_bias": True, "positional": Rope(1e6)},
  ),
  "Qwen3, a norm per head": (
    "Qwen3",
    {"num_key_value_heads": 2, "head_dim": 16},
    {"qk_norm": "qk", "qk_norm_scope": "head"},
  ),
  "OLMo 2, post-norms, a joint norm on q and k": (
    "Olmo2",
    {"num_key_value_heads": 2},
    {"norm_placement": "post", "qk_norm": "qk"},
  ),
  "Gemma 2, two caps": (
    "Gemma2",
    {
      "num_key_value_heads": 2,
      "head_dim": 16,
      "query_pre_attn_scalar": 24,
      "attn_logit_softcapping": 2.0,
      "final_logit_softcapping": 1.5,
      "sliding_window": 100,
    },
    {
      "norm_placement": "both",
      "mlp_activation": "gelu_tanh",
      "embedding_scale": 32**0.5,
      "logit_scale": (16 / 24) ** 0.5,
      "logit_soft_cap": 2.0,
      "final_logit_soft_cap": 1.5,
      "positional": Pattern((Rope(), Rope()), (100, None)),
    },
  ),
  "Gemma 3, two thetas, a norm per head": (
    "Gemma3",
    {
      "num_hidden_layers": 3,
      "num_key_value_heads": 2,
      "head_dim": 16,
      "query_pre_attn_scalar": 24,
      "sliding_window": 100,
      "layer_types": [*["sliding_attention"] * 2, "full_attention"],
      "rope_parameters": {
        "sliding_attention": _rope(),
        "full_attention": _rope() | {"rope_theta": 1e6},
      },
    },
    {
      "norm_placement": "both",
      "mlp_activation": "gelu_tanh",
      "embedding_scale": 32**0.5,
      "qk_norm": "qk",
      "qk_norm_scope": "head",
      "logit_scale": (16 / 24) ** 0.5,
      "positional": Pattern((Rope(), Rope(), Rope(1e6)), (100, 100, None)),
    },
  ),
  "Mistral, a window": (
    "Mistral",
    {"num_key_value_heads": 2, "sliding_window": 100},
    {"positional": Pattern((Rope(),), (100,))},
  ),
  "SmolLM3, without positions in every other layer": (
    "SmolLM3",
    {"num_key_value_heads": 2, "no_rope_layers": [1, 0]},
    {"positional": Pattern((Rope(), Nope()))},
  ),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_are_transformers_at_every_position(forward, name):
  family, settings, choices = CASES[name]
  settings = SIZES | {"rope_parameters": _rope()} | settings
  theirs = _with_random_weights(
    getattr(transformers, f"{family}ForCausalLM")(
      _config_class(family)(**settings, attn_implementation="eager")
    )
  )
  config = _config(theirs, **choices)
  rng = np.random.default_rng(0)
  tokens_BS = rng.integers(0, config.vocab_size, (2, TOKENS))
  want_BSV = theirs(torch.asarray(tokens_BS)).logits.numpy()
  got_BSV = forward(config, _params(theirs, config), tokens_BS)
  assert 0.3 < np.std(want_BSV) < 3, "logits are not of order one"
  np.testing.assert_allclose(got_BSV, want_BSV, atol=1e-5)
