"""One training on one host: started, told to end, and what its end means."""

from collections.abc import Mapping, Sequence
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

_OUT_OF_MEMORY = re.compile(
  r"RESOURCE_EXHAUSTED|[Oo]ut of memory|MemoryError|Cannot allocate memory"
)
_TAIL_BYTES = 1 << 16
_LOCK = pathlib.Path("/tmp/libtpu_lockfile")
_PATIENCE_S = 120


class Training:
  """A process of `drope train`, with all it says in a file."""

  def __init__(
    self,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    folder: pathlib.Path,
    log: pathlib.Path,
  ):
    """Starts it.

    Args:
      arguments: after `drope train`.
      variables: of the environment; one that is set already stays.
      folder: where it runs.
      log: what it says goes after what this file has.
    """
    self.log = log
    self._killed_at: float | None = None
    # A process that was killed leaves it, and the next cannot open the chips
    # (jax-ml/jax#10192). No other on this host may use them.
    _LOCK.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
      self._process = subprocess.Popen(
        [sys.executable, "-m", "drope_jax.cli.main", "train", *arguments],
        env={**variables, **os.environ},
        cwd=folder,
        stdout=output,
        stderr=subprocess.STDOUT,
      )

  def poll(self) -> int | None:
    """Returns the exit status as a shell has it; None: it goes on."""
    code = self._process.poll()
    if code is None and self._killed_at is not None:
      if time.monotonic() > self._killed_at:
        self._process.kill()
    return code if code is None or code >= 0 else 128 - code

  def end(self, patience_s: float = _PATIENCE_S) -> None:
    """Asks it to save and end; once, as a second time would end it unsaved."""
    if self._killed_at is None and self._process.poll() is None:
      self._killed_at = time.monotonic() + patience_s
      self._process.send_signal(signal.SIGTERM)

  def last_line(self) -> str:
    """Returns the last thing that it said."""
    lines = [line for line in self._tail().splitlines() if line.strip()]
    return " ".join(lines[-1].split())[-500:] if lines else "nothing"

  def out_of_memory(self, code: int) -> str | None:
    """Returns whose memory ran out, "device" or "host"; None: no one's.

    Args:
      code: its exit status.
    """
    if code == 128 + signal.SIGKILL and self._killed_at is None:
      return "host"  # The kernel kills what takes the most.
    if code and _OUT_OF_MEMORY.search(self._tail()):
      return "device"
    return None

  def _tail(self) -> str:
    with self.log.open("rb") as file:
      file.seek(0, os.SEEK_END)
      file.seek(max(0, file.tell() - _TAIL_BYTES))
      return file.read().decode(errors="replace")
