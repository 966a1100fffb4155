"""When a training saves between its start and its end."""

import time

from jax.experimental import multihost_utils
import numpy as np


class Cadence:
  """Saves every few steps, and after some minutes without a save."""

  def __init__(self, every_steps: int, every_minutes: float | None):
    self._every_steps = every_steps
    self._every_minutes = every_minutes
    self._saved_s = time.monotonic()

  def due(self, step: int, logs: bool) -> bool:
    """Returns whether to save after `step`, the same in every process.

    Args:
      step: the run's.
      logs: whether a line of metrics.jsonl is due. The clock (of the first
        process) is read only then, as each process waits for its devices then.
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
    """Notes that a save has begun."""
    self._saved_s = time.monotonic()
