import dataclasses

import pytest

from drope_jax import positional
from drope_jax.model.config import ModelConfig
from drope_jax.train import backend

MODEL = ModelConfig(
  vocab_size=288,
  num_layers=2,
  width=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  context_tokens=8,
)


@pytest.mark.parametrize(
  "device,dtype,scheme,want",
  [
    ("cpu", "float32", positional.Rope(), "blockwise"),
    ("tpu", "float32", positional.Alibi(), "flash_tpu"),
    ("gpu", "bfloat16", positional.Rope(), "cudnn"),
    ("gpu", "float32", positional.Rope(), "xla"),
    ("gpu", "bfloat16", positional.Alibi(), "xla"),
  ],
)
def test_auto_is_a_backend_that_runs_on_these_devices(
  device, dtype, scheme, want
):
  config = dataclasses.replace(MODEL, positional=scheme)
  assert backend.resolve("auto", config, dtype, device) == want
  assert backend.resolve("splash", config, dtype, device) == "splash"
