"""When a training saves on its way."""

import time

from jax.experimental import multihost_utils
import numpy as np


class Cadence:
  """Every so many steps, and every so many minutes without a save."""

  def __init__(self, every_steps: int, every_minutes: float | None):
    self._every_steps = every_steps
    self._every_minutes = every_minutes
    self._saved_s = time.monotonic()

  def due(self, step: int, logs: bool) -> bool:
    """Returns whether to save after `step`, the same in every process.

    Args:
      step: the run's.
      logs: whether a line of metrics.jsonl was due then. Only there is the
        clock asked, the first process's, as each waits there for its devices.
    """
    due = step % self._every_steps == 0
    if logs and not due and self._every_minutes is not None:
      passed_s = time.monotonic() - self._saved_s
      due = bool(
        multihost_utils.broadcast_one_to_all(
          np.array(passed_s >= 60 * self._every_minutes)
        )
      )
    return due

  def restart(self) -> None:
    """Notes that a save was begun."""
    self._saved_s = time.monotonic()
