import subprocess
import sys

import pytest

# Touches 64 distant places of a block, frees it, and counts the pages that
# the kernel maps for a second such block.
PROGRAM = """
import ctypes, resource, sys
from drope_jax.cli import memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
if sys.argv[2] != "given back":
  memory.keep_freed_memory()

def faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  size = int(sys.argv[1])
  block = libc.malloc(ctypes.c_size_t(size))
  for place in range(0, size, size // 64):
    ctypes.memset(block + place, 1, 1)
  libc.free(ctypes.c_void_p(block))
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[2] == "loading":
  with memory.while_loading():
    faults()
    print(faults())
else:
  faults()
  print(faults())
"""


def _second_faults(size: int, kept: str) -> int:
  ran = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(size), kept],
    check=True,
    capture_output=True,
    text=True,
  )
  return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is glibc's")
@pytest.mark.parametrize("size", [2**28, 3 * 2**30])
def test_freed_memory_of_any_size_is_kept(size):
  assert _second_faults(size, "given back") >= 64
  assert _second_faults(size, "kept") < 16
  assert _second_faults(size, "loading") >= 64
