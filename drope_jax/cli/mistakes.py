"""Errors that are not bugs, each as one line and an exit status."""

from collections.abc import Iterator
import errno
import os
import re
import socket

from drope_jax import extras
from drope_jax.exits import Exit, HostLost

_DISK_FULL = {
  errno.ENOSPC: "the disk is full",
  errno.EDQUOT: "the disk quota is used up",
  errno.EFBIG: "a file would be larger than the disk or `ulimit -f` allows",
}
_BUCKETS = ("gcsfs", "google")
_NO_ANSWER = (ConnectionError, TimeoutError, socket.gaierror)
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


def explain(error: Exception) -> str | None:
  """Returns what went wrong and what to do; None if it is a bug."""
  causes = list(_causes(error))
  if any(map(_is_out_of_memory, causes)):
    return (
      f"out of memory ({_text(error)[:300]}). Reduce the batch or the model, "
      "or use more devices; `drope plan` finds what fits a TPU slice"
    )
  if (reason := _disk_full(causes)) is not None:
    return (
      f"{reason}, so the last write failed. Free some space, or choose another "
      "folder, and run the same command"
    )
  if any(
    isinstance(cause, ModuleNotFoundError) and cause.name == "gcsfs"
    for cause in causes
  ):
    return extras.missing("gcsfs", "gcs", "A gs:// path")
  if (cause := next(filter(_has_no_answer, causes), None)) is not None:
    return (
      f"Google Cloud Storage or the network did not answer ({_text(cause)}). "
      "Run the same command again."
    )
  if any(map(_is_refusal, causes)):
    return (
      f"Google Cloud Storage refused ({_text(error)}). Check the path, and log "
      "in with `gcloud auth application-default login`."
    )
  if isinstance(error, (ValueError, OSError)):
    return _text(error)
  return None


def status(error: Exception) -> Exit:
  """Returns the exit status for an error."""
  if any(map(_is_out_of_memory, _causes(error))):
    return Exit.OUT_OF_MEMORY
  if isinstance(error, HostLost):
    return Exit.HOST_LOST
  if any(map(_has_no_answer, _causes(error))):
    return Exit.UNREACHABLE
  return Exit.BUG if explain(error) is None else Exit.MISTAKE


def _is_out_of_memory(error: BaseException) -> bool:
  # By name: importing jax takes a second, and a command may not need it.
  of_xla = type(error).__name__ == "JaxRuntimeError"
  return isinstance(error, MemoryError) or (
    of_xla and "RESOURCE_EXHAUSTED" in str(error)
  )


def _has_no_answer(error: BaseException) -> bool:
  """Returns whether the network or a server failed, as it may not next time."""
  if isinstance(error, OSError):
    unanswered = isinstance(error, _NO_ANSWER) or error.errno in _UNREACHABLE
    return unanswered and not isinstance(error, BrokenPipeError)
  if isinstance(error, ValueError):  # TensorStore has no other type.
    return _has_status(error, "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")
  if _library(error) not in _BUCKETS:
    return False
  code = getattr(error, "code", None)
  busy = str(code).isdecimal() and (
    int(str(code)) in (408, 429, *range(500, 600))
  )
  return busy or type(error).__name__ == "TransportError"


def _is_refusal(error: BaseException) -> bool:
  return (
    _library(error) in _BUCKETS
    or str(error).startswith("Forbidden: ")
    or _has_status(error, "PERMISSION_DENIED", "UNAUTHENTICATED")
  )


def _has_status(error: BaseException, *names: str) -> bool:
  return re.match(rf"({'|'.join(names)})\b", str(error)) is not None


def _library(error: BaseException) -> str:
  # By name: these classes exist only with the extra "gcs".
  return type(error).__module__.split(".")[0]


def _causes(error: BaseException) -> Iterator[BaseException]:
  """Yields the error, the errors that caused it, and those in its group."""
  yield error
  below = [error.__cause__ or error.__context__]
  for cause in [*below, *getattr(error, "exceptions", ())]:
    if cause is not None:
      yield from _causes(cause)


def _disk_full(causes: list[BaseException]) -> str | None:
  for cause in causes:
    for number, reason in _DISK_FULL.items():
      # TensorStore and XLA have the system's error only in their messages.
      if (isinstance(cause, OSError) and cause.errno == number) or os.strerror(
        number
      ) in str(cause):
        return reason
  return None


def _text(error: BaseException) -> str:
  if isinstance(error, OSError) and error.filename is not None:
    return f"{error.filename}: {error.strerror}"
  text = str(error).split(" [tensorstore_spec=")[0]
  return text or type(error).__name__
