"""Every backend that a CPU can run, with blocks of which a test has several."""

import functools

import pytest

from drope_jax import attention
from drope_jax.attention.flash_tpu.blocks import Blocks

BLOCKS = Blocks(q=128, k=128, unit_q=128, unit_k=128, ahead=1, behind=1)
OPTIONS = {
  "blockwise": {"block": 32, "at_once": 0},  # Loops over heads, too.
  "flash_tpu": {
    "forward_blocks": BLOCKS,
    "backward_blocks": BLOCKS,
    "interpret": True,
  },
  "splash": {"block": 128, "interpret": True},
}


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
  small = {
    name: backend._replace(
      attend=functools.partial(backend.attend, **OPTIONS.get(name, {}))
    )
    for name, backend in attention.BACKENDS.items()
  }
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(attention.backends, "BACKENDS", small)
    yield
