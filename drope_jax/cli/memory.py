"""Keeps freed memory in the process, which makes CPU steps faster.

XLA's CPU backend allocates each step's temporaries with malloc. glibc returns
large ones to the kernel when they are freed. The kernel must then zero every
page again in the next step. On a virtual machine this takes about a tenth of a
small model's training step (tools/bench_train.py).
"""

from collections.abc import Iterator
import contextlib
import ctypes
import sys

# <malloc.h>: parameters of mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8

# glibc's own M_MMAP_MAX.
_MOST_MAPPED = 65536

_keeps = False


def keep_freed_memory() -> None:
  """Makes glibc keep freed memory; does nothing with other C libraries."""
  global _keeps
  _keeps = True
  _set(_MMAP_MAX, 0)
  _set(_TRIM_THRESHOLD, -1)  # Never trim.
  _set(_TOP_PAD, 64 * 2**20)
  # An arena of a thread is limited to 64 MiB, and maps memory beyond that.
  _set(_ARENA_MAX, 1)


@contextlib.contextmanager
def while_loading() -> Iterator[None]:
  """Returns freed blocks to the kernel, and keeps them again afterwards.

  Reading a checkpoint frees each array that it has cast. The others do not
  always fit where it was, which took a quarter of the weights' memory.
  """
  if not _keeps:
    yield
    return
  _set(_MMAP_MAX, _MOST_MAPPED)
  try:
    yield
  finally:
    _set(_MMAP_MAX, 0)


def _set(parameter: int, value: int) -> None:
  if not sys.platform.startswith("linux"):
    return
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is not None:  # None in another C library, e.g. musl.
    mallopt(parameter, value)
