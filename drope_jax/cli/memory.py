"""Keeps freed memory in the process, so that a CPU step does not fault it anew.

XLA's CPU backend allocates each step's temporaries with malloc. glibc gives
large ones back to the kernel when they are freed, and the kernel zeroes every
page again at the next step's first touch: on a virtual machine about a tenth
of a small model's training step (tools/bench_train.py).
"""

import ctypes
import sys

# <malloc.h>: parameters of mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
  """Tells glibc to keep what is freed; elsewhere it does nothing."""
  if not sys.platform.startswith("linux"):
    return
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:  # Another C library, such as musl.
    return
  mallopt(_MMAP_MAX, 0)
  mallopt(_TRIM_THRESHOLD, -1)  # Never.
  mallopt(_TOP_PAD, 64 * 2**20)
  # Threads' own arenas are capped at 64 MiB, and would map again beyond.
  mallopt(_ARENA_MAX, 1)
