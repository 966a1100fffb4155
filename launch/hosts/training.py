"""One training on one host: started, told to end, and what its end means."""

from collections.abc import Mapping, Sequence
import os
import pathlib
import signal
import subprocess
import sys
import time

_TAIL_BYTES = 1 << 12
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
    self._log = log
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
    late = self._killed_at is not None and time.monotonic() > self._killed_at
    if code is None and late:
      self._process.kill()
    return code if code is None or code >= 0 else 128 - code

  def end(self, patience_s: float = _PATIENCE_S) -> None:
    """Asks it to save and end; once, as a second time would end it unsaved."""
    if self._killed_at is None and self._process.poll() is None:
      self._killed_at = time.monotonic() + patience_s
      self._process.send_signal(signal.SIGTERM)

  def last_line(self) -> str:
    """Returns the last thing that it said."""
    with self._log.open("rb") as file:
      file.seek(0, os.SEEK_END)
      file.seek(max(0, file.tell() - _TAIL_BYTES))
      lines = file.read().decode(errors="replace").splitlines()
    said = [" ".join(line.split()) for line in lines if line.strip()]
    return said[-1][-500:] if said else "it said nothing"
