"""What is said of a parameter is what the model makes and does with it."""

import dataclasses
import re

import pytest

from drope_jax import parameters, trees
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.parameters import Role
from drope_jax.positional import Kerple, LearnedAbsolute

CONFIG = ModelConfig(
  vocab_size=32,
  num_layers=3,
  width=20,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=24,
  context_tokens=8,
)
SIZES = {
  "V": 32,
  "P": 12,
  "N": 3,
  "M": 20,
  "H": 4,
  "HD": 16,
  "KD": 8,
  "D": 4,
  "I": 24,
}
VARIANTS = {
  "plain": {},
  "tied": {"tied_embeddings": True},
  "joint norms, biases": {"qk_norm": "qk", "qkv_bias": True},
  "norms before and after": {"norm_placement": "both"},
  "a scheme that learns": {"positional": Kerple()},
  "a table of positions": {"positional": LearnedAbsolute(12)},
  "LayerNorms, biases": {
    "norm_kind": "layer",
    "norm_placement": "both",
    "o_bias": True,
    "mlp_bias": True,
  },
  "no gate": {"gated_mlp": False},
  "norms per head": {"qk_norm": "qk", "qk_norm_scope": "head"},
}
_QK_GAINS = {f"layers/attention/{x}_norm/gain" for x in "qk"}


def _shapes(changes):
  config = dataclasses.replace(CONFIG, **changes)
  return trees.flatten(transformer.param_shapes(config))


def test_axes_are_those_of_the_model_and_nothing_else_is_described():
  found = set()
  for changes in VARIANTS.values():
    for path, leaf in _shapes(changes).items():
      described = parameters.describe(path)
      axes = described.axes
      if "qk_norm_scope" in changes and path.endswith(
        ("q_norm/gain", "k_norm/gain")
      ):
        axes = ("N", "D")
      assert leaf.shape == tuple(map(SIZES.get, axes)), path
      found.add(re.sub(r"(/positions)/[pa]$", r"\1/NAME", path))
      if described.role is Role.PROJECTION:
        for name, kept in (("lora_a", 1), ("lora_b", 2)):
          factor = path.replace("kernel", name)
          axes = list(described.axes)
          axes[3 - kept] = "R"
          assert parameters.describe(factor).axes == tuple(axes)
          found.add(factor)
  assert found == set(parameters.PARAMETERS)


def test_groups_of_layers_have_the_same_parameters():
  path = "layers/attention/q/kernel"
  assert parameters.describe("layers/12/attention/q/kernel") == (
    parameters.describe(path)
  )


@pytest.mark.parametrize(
  "path", ["layers/attention/z/kernel", "old/embed/table", "layers/1"]
)
def test_what_is_not_described_is_named(path):
  with pytest.raises(ValueError, match=f"got {path}. Describe it there"):
    parameters.describe(path)


@pytest.mark.parametrize("tied", [False, True])
def test_a_token_is_multiplied_by_its_layers_matrices_and_by_one_head(
  tied,
):
  shapes = _shapes({"tied_embeddings": tied, "qkv_bias": True})
  counted = parameters.multiplied(shapes)
  head = "embed/table" if tied else "head/kernel"
  layers = [path for path in shapes if path.startswith("layers/")]
  assert set(counted) == {
    head,
    *(path for path in layers if len(shapes[path].shape) == 3),
  }


def test_what_rope_rotates_is_q_and_k_alone():
  rotated = {p for p, one in parameters.PARAMETERS.items() if one.is_rotated}
  assert rotated == {
    f"layers/attention/{x}{name}"
    for x in "qk"
    for name in ("/kernel", "/bias", "/lora_b", "_norm/gain")
  }


def test_muon_takes_a_layers_matrices_by_in_and_out():
  config = dataclasses.replace(CONFIG, qkv_bias=True, qk_norm="qk")
  for path, leaf in trees.flatten(transformer.param_shapes(config)).items():
    axes = parameters.describe(path).muon_axes
    if path.startswith("layers/") and leaf.ndim == 3:
      assert axes == (1, 2), path
    else:
      assert axes is None, path
