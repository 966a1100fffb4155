"""The error decides the exit status."""

import gcsfs.retry
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
    (ConnectionResetError(104, "Connection reset by peer"), Exit.UNREACHABLE),
    (OSError(101, "Network is unreachable"), Exit.UNREACHABLE),
    (ValueError("UNAVAILABLE: Error reading gs://b/a"), Exit.UNREACHABLE),
    (ValueError("PERMISSION_DENIED: Error reading gs://b/a"), Exit.MISTAKE),
    (BrokenPipeError(32, "Broken pipe"), Exit.MISTAKE),
    (KeyError("a"), Exit.BUG),
    (RuntimeError("RESOURCE_EXHAUSTED: no file handles"), Exit.BUG),
  ],
)
def test_each_kind_of_error_has_its_status(error, status):
  assert mistakes.status(error) == status
  assert (mistakes.explain(error) is None) == (status == Exit.BUG)


@pytest.mark.parametrize(
  ("code", "status"),
  [(503, Exit.UNREACHABLE), ("429", Exit.UNREACHABLE), (403, Exit.MISTAKE)],
)
def test_a_bucket_that_is_busy_is_asked_again(code, status):
  error = gcsfs.retry.HttpError({"code": code, "message": "of the bucket"})
  assert mistakes.status(error) == status
  assert "of the bucket" in mistakes.explain(error)


def test_what_a_bucket_did_not_answer_is_not_called_damaged():
  wrapped = ValueError("A complete token store is needed. Delete it.")
  wrapped.__cause__ = ValueError("UNAVAILABLE: Error reading gs://bucket/text")
  assert mistakes.status(wrapped) == Exit.UNREACHABLE
  line = mistakes.explain(wrapped)
  assert "did not answer (UNAVAILABLE: Error reading gs://bucket/text)" in line
  assert "Delete it" not in line
  lost = HostLost("Another process has ended.")
  lost.__cause__ = wrapped
  assert mistakes.status(lost) == Exit.HOST_LOST


def test_a_device_out_of_memory_is_not_a_bug():
  with pytest.raises(jax.errors.JaxRuntimeError) as caught:
    jnp.zeros(1 << 45).block_until_ready()
  assert mistakes.status(caught.value) == Exit.OUT_OF_MEMORY
  line = mistakes.explain(caught.value)
  assert line.startswith("out of memory (RESOURCE_EXHAUSTED: Out of memory")
  wrapped = ValueError("It cannot be read.")
  wrapped.__cause__ = caught.value
  assert mistakes.status(wrapped) == Exit.OUT_OF_MEMORY
