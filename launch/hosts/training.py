"""The process of one training on one host."""

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
  """A process of `drope train`, which writes its output to a file."""

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
      variables: of the environment; they do not replace those that are set.
      folder: its working folder.
      log: the file to which its output is appended.
    """
    self._log = log
    self._killed_at: float | None = None
    # A process that was killed leaves it, and the next one then cannot open the
    # chips (jax-ml/jax#10192). No other process on this host may use them.
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
    """Returns the exit status, as a shell would; None: it still runs."""
    code = self._process.poll()
    late = self._killed_at is not None and time.monotonic() > self._killed_at
    if code is None and late:
      self._process.kill()
    return code if code is None or code >= 0 else 128 - code

  def end(self, patience_s: float = _PATIENCE_S) -> None:
    """Asks it to save and end, once: a second SIGTERM would skip the save."""
    if self._killed_at is None and self._process.poll() is None:
      self._killed_at = time.monotonic() + patience_s
      self._process.send_signal(signal.SIGTERM)

  def last_line(self) -> str:
    """Returns the last line of its output."""
    with self._log.open("rb") as file:
      file.seek(0, os.SEEK_END)
      file.seek(max(0, file.tell() - _TAIL_BYTES))
      lines = file.read().decode(errors="replace").splitlines()
    said = [" ".join(line.split()) for line in lines if line.strip()]
    return said[-1][-500:] if said else "it said nothing"
