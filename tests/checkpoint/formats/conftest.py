"""Tiny folders that transformers itself has saved."""

import re

import numpy as np
import pytest

from drope_jax import trees

SIZES = {
  "vocab_size": 64,
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 1024,
  "pad_token_id": None,
}


@pytest.fixture(scope="session")
def make_theirs():
  """Builds a family's model of random weights, in float32."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")

  @torch.no_grad()
  def make(family, **settings):
    # Families with images have a configuration for the text alone.
    config_class = getattr(
      transformers, f"{family}TextConfig", None
    ) or getattr(transformers, f"{family}Config")
    config = config_class(**SIZES | settings, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
      weight.normal_(generator=generator)
      if re.search(r"(norm|ln_\w)\.weight$", name):
        weight.mul_(0.3).add_(
          not family.startswith("Gemma")
        )  # Adds one itself.
      elif name.endswith("o_proj.bias"):
        weight.zero_()
      else:
        weight.mul_(0.3 if weight.ndim == 1 else weight.shape[-1] ** -0.5)
    return model.eval()

  return make


@pytest.fixture(scope="session")
def params_of():
  """Reads a source's leaves whole, into a tree."""

  def read(source):
    whole = {
      path: leaf.read(tuple(slice(0, size) for size in leaf.shape))
      for path, leaf in source.leaves.items()
    }
    return trees.unflatten(whole)

  return read


@pytest.fixture(scope="session")
def tokens_BS():
  # Short prompts hide mistakes in RoPE.
  return np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 640))
