"""The error decides the exit status."""

import jax
import jax.numpy as jnp
import pytest

from drope_jax.cli import mistakes
from drope_jax.exits import Exit, HostLost


@pytest.mark.parametrize(
  ("error", "status"),
  [
    (ValueError("A step must be at least 1."), Exit.MISTAKE),
    (FileNotFoundError(2, "No such file", "a"), Exit.MISTAKE),
    (HostLost("2 processes are needed, got 1."), Exit.HOST_LOST),
    (MemoryError(), Exit.OUT_OF_MEMORY),
    (KeyError("a"), Exit.BUG),
    (RuntimeError("RESOURCE_EXHAUSTED: no file handles"), Exit.BUG),
  ],
)
def test_each_kind_of_error_has_its_status(error, status):
  assert mistakes.status(error) == status
  assert (mistakes.explain(error) is None) == (status == Exit.BUG)


def test_a_device_out_of_memory_is_not_a_bug():
  with pytest.raises(jax.errors.JaxRuntimeError) as caught:
    jnp.zeros(1 << 45).block_until_ready()
  assert mistakes.status(caught.value) == Exit.OUT_OF_MEMORY
  line = mistakes.explain(caught.value)
  assert line.startswith("out of memory (RESOURCE_EXHAUSTED: Out of memory")
  wrapped = ValueError("It cannot be read.")
  wrapped.__cause__ = caught.value
  assert mistakes.status(wrapped) == Exit.OUT_OF_MEMORY
