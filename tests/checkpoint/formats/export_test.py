"""An export says which clients run another model than the one it holds."""

import dataclasses

import pytest

from drope_jax.checkpoint.formats import export
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, PartialRope, Pattern, Rope

CONFIG = ModelConfig(
  vocab_size=64,
  num_layers=2,
  width=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=16,
  mlp_width=48,
  context_tokens=1024,
)
HEAD_NORM = {"qk_norm": "qk", "qk_norm_scope": "head"}
JOINT_NORM = {"qk_norm": "qk", "head_dim": 8}  # The heads fill the width.
PARTIAL = {"positional": PartialRope(Rope(100.0), 6)}


@pytest.mark.parametrize(
  ("fields", "architecture", "says"),
  [
    ({}, None, ""),
    (
      {"positional": Nope()},
      None,
      '; llama.cpp needs `architecture="llama"`',
    ),
    ({"positional": Nope()}, "llama", ""),
    (
      {"positional": Nope(), "num_heads": 6},
      None,
      '; llama.cpp needs `architecture="mistral"`',
    ),
    (
      {"positional": Pattern((Rope(),) * 3 + (Nope(),)), "num_layers": 4},
      None,
      "",
    ),
    ({"positional": Pattern((Rope(), Nope()))}, None, "; llama.cpp would run"),
    (HEAD_NORM | {"positional": Nope()}, None, "; llama.cpp would run"),
    (PARTIAL, None, ""),
    (HEAD_NORM | PARTIAL, None, "; llama.cpp would run"),
    (HEAD_NORM, None, ""),
    (JOINT_NORM, None, "; vLLM and llama.cpp run it as docs/convert.md says"),
  ],
)
def test_what_llama_cpp_misreads_is_said(fields, architecture, says):
  options = export.Options(architecture=architecture)
  config = dataclasses.replace(CONFIG, **fields)
  _, note = export._stock(options, config, None, preferred=())
  assert note.startswith(says) and bool(note) == bool(says)
