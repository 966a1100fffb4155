"""The attention of a model is chosen once, for the device that runs it."""

import dataclasses

import jax.numpy as jnp
import pytest

from drope_jax import attention, positional, sharding
from drope_jax.attention.flash_tpu import blocks
from drope_jax.model import backend
from drope_jax.model.config import ModelConfig

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


@dataclasses.dataclass(frozen=True)
class _Device:
  """A device, as far as a choice looks at it."""

  platform: str
  device_kind: str
  compute_capability: str = "0"


CPU = _Device("cpu", "cpu")
GPU = _Device("gpu", "NVIDIA H100", "9.0")
A100 = _Device("gpu", "NVIDIA A100", "8.0")
V5E = _Device("tpu", "TPU v5 lite")
V6E = _Device("tpu", "TPU v6 lite")
OURS = attention.Blocks(512, 256, 128, 256, 3, 0)


@pytest.mark.parametrize(
  "device,dtype,changes,want",
  [
    (CPU, "float32", {}, "blockwise"),
    (GPU, "bfloat16", {}, "cudnn"),
    (GPU, "float32", {}, "xla"),
    # What cuDNN's attention requires of a head's size.
    (GPU, "bfloat16", {"head_dim": 256}, "cudnn"),
    (A100, "bfloat16", {"head_dim": 128}, "cudnn"),
    (A100, "bfloat16", {"head_dim": 256}, "xla"),
    (GPU, "bfloat16", {"head_dim": 12}, "xla"),
    (GPU, "bfloat16", {"positional": positional.Alibi()}, "xla"),
    (GPU, "bfloat16", {"positional": positional.Kerple()}, "xla"),
    (GPU, "bfloat16", {"logit_soft_cap": 50.0}, "blockwise"),
    (V5E, "bfloat16", {"positional": positional.Kerple()}, "blockwise"),
  ],
)
def test_auto_is_a_backend_that_runs_the_model_there(
  device, dtype, changes, want
):
  config = dataclasses.replace(MODEL, **changes)
  assert backend.resolve("auto", config, dtype, device) == want
  assert backend.resolve("splash", config, dtype, device) == "splash"


def test_sequences_of_any_length_take_no_memory_of_their_square():
  on_gpu, on_tpu = (
    backend.resolve("auto", MODEL, "float32", device, any_length=True)
    for device in (GPU, V5E)
  )
  assert on_gpu == "blockwise"
  assert isinstance(on_tpu, attention.FlashTpu)
  assert backend.for_one_token(on_tpu) == "blockwise"
  assert backend.for_one_token("reference") == "reference"


def test_a_librarys_kernel_is_divided_where_jit_cannot():
  """cuDNN's is refused where tokens are split, without this."""
  for axes, divided in (
    ({"fsdp": 8}, False),
    ({"fsdp": 4, "context": 2}, True),
  ):
    mesh = sharding.make_mesh(sharding.MeshConfig(**axes))
    placed = attention.on_mesh("cudnn", mesh, **sharding.ATTENTION)
    assert isinstance(placed, attention.Divided) is divided
    one_token = "blockwise" if divided else "cudnn"
    assert backend.for_one_token(placed) == one_token


def test_auto_returns_statistics_where_they_are_wanted():
  on_gpu, on_tpu = (
    backend.resolve("auto", MODEL, "bfloat16", device, with_stats=True)
    for device in (GPU, V5E)
  )
  assert on_gpu == "blockwise"
  assert isinstance(on_tpu, attention.FlashTpu)


@pytest.mark.parametrize("choice", ["auto", "flash_tpu", attention.FlashTpu()])
@pytest.mark.parametrize("device,chip", [(V5E, "v5e"), (V6E, "v6e")])
def test_our_kernel_has_the_blocks_of_its_chip(device, chip, choice):
  config = dataclasses.replace(MODEL, head_dim=64)
  assert backend.resolve(
    choice, config, "bfloat16", device
  ) == attention.FlashTpu(
    blocks.nearest(chip, 64, "forward"), blocks.nearest(chip, 64, "backward")
  )


def test_blocks_that_are_given_stay():
  chosen = attention.FlashTpu(forward=OURS)
  resolved = backend.resolve(chosen, MODEL, "bfloat16", V6E)
  assert resolved.forward == OURS
  assert resolved.backward == blocks.nearest("v6e", 8, "backward")


def test_a_kernel_without_blocks_is_refused():
  x_BSKD = jnp.ones((1, 4, 1, 8))
  for choice in ("flash_tpu", attention.FlashTpu()):
    with pytest.raises(ValueError, match="Take what attention.resolve returns"):
      attention.attend(
        x_BSKD, x_BSKD, x_BSKD, mask=attention.Mask(), backend=choice
      )
