"""The TPU's compiler takes the kernels, for every chip; nothing is run."""

import dataclasses
import importlib.util

import pytest

from drope_jax.attention.flash_tpu.blocks import nearest
from drope_jax.perf import schedule

SMALL = (512, 512, 128, 128, 2, 1, False, 256)
LARGE = (1024, 1024, 256, 256, 2, 1, False, 512)

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu, the TPU's compiler: pip install libtpu",
)


@pytest.fixture(autouse=True)
def no_flags_of_tests(monkeypatch):
  # libtpu refuses flags that only the CPU's compiler knows.
  monkeypatch.delenv("XLA_FLAGS")


def compiled(chip: str, target: str = "flash", **kwargs):
  return schedule.compiled(
    f"drope_jax.perf.attention_targets:{target}", f"{chip}:2x2", kwargs
  )


@pytest.mark.parametrize(
  "chip, option, undivided",
  [
    ("v5e", "alibi", False),
    ("v5p", "window", False),
    ("v6e", "segments", True),
    ("v6e", "rotation", True),
  ],
)
def test_both_kernels_compile(chip, option, undivided):
  program = compiled(
    chip,
    tokens=1024,
    head_dim=64,
    forward=(*SMALL, undivided),
    backward=(*SMALL, undivided),
    option=option,
  )
  cut = option in ("window", "segments")
  for name in ("forward", "backward"):
    kernel = program.kernel(name)
    assert len(kernel.tiles) == 2 * undivided
    assert len(kernel.parts) == 2 * (cut or not undivided)
    if undivided:
      # Units above the diagonal are not computed: six of 16 here.
      whole, diagonal = kernel.tiles
      assert diagonal < whole


def test_the_backward_pass_takes_no_memory_that_grows_with_the_square():
  program = compiled(
    "v5e", tokens=32768, head_dim=128, forward=SMALL, backward=LARGE
  )
  assert program.temporary_bytes <= 2**30


@pytest.mark.parametrize("chip", ["v4", "v5p"])
def test_rotated_heads_of_gemma_2_leave_room_in_vmem(chip):
  forward, backward = (
    dataclasses.astuple(nearest(chip, 256, direction))
    for direction in ("forward", "backward")
  )
  compiled(
    chip,
    tokens=8192,
    head_dim=256,
    forward=forward,
    backward=backward,
    option="rotation",
    group_size=2,
  )


def test_a_key_of_many_query_heads_leaves_room_in_vmem():
  compiled(
    "v5e",
    tokens=4096,
    head_dim=256,
    forward=SMALL,
    backward=(2048, 2048, 256, 256, 2, 1, False, 1024),
    group_size=16,
  )


def test_rope_takes_no_pass_through_memory():
  rope, nope = (
    compiled(
      "v5e",
      "layers",
      positional=positional,
      tokens=1024,
      head_dim=128,
      forward=SMALL,
      backward=SMALL,
    )
    for positional in ("rope", "nope")
  )
  # In passes of its own the rotation would access a quarter more.
  assert rope.accessed_bytes < 1.02 * nope.accessed_bytes
