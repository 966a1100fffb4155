"""Free memory of this machine, and processes that the kernel has ended."""

import contextlib
import pathlib

import psutil

_CGROUPS = pathlib.Path("/sys/fs/cgroup")


def available_memory() -> int:
  """Returns the bytes that this process, or its container, may still use."""
  free = [psutil.virtual_memory().available]
  with contextlib.suppress(OSError, KeyError, ValueError):
    group = _group()
    limit = int((group / "memory.max").read_text())  # Or "max".
    used = int((group / "memory.current").read_text())
    held = _counts(group / "memory.stat")
    cached = held["active_file"] + held["inactive_file"]
    free.append(limit - used + cached)
  return min(free)


def out_of_memory_kills() -> int:
  """Returns how many processes of this cgroup the kernel killed for memory.

  Also 0 outside Linux, and without version 2 of its cgroups.
  """
  with contextlib.suppress(OSError, KeyError, ValueError):
    return _counts(_group() / "memory.events")["oom_kill"]
  return 0


def _group() -> pathlib.Path:
  """Returns the folder of this process's cgroup."""
  lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
  own = dict(line.split("::", 1) for line in lines if "::" in line)
  return _CGROUPS / own["0"].lstrip("/")


def _counts(file: pathlib.Path) -> dict[str, int]:
  lines = file.read_text().splitlines()
  return {name: int(count) for name, count in map(str.split, lines)}
