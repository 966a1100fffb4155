"""The share of a run's time that went into steps that were kept."""

import os
import time

from drope_jax.analysis import records
from drope_jax.train import heartbeat


class Goodput:
  """Counts the time since a run's first start, interruptions included.

  Lost time is all that is no step: waiting for machines, compiling, loading,
  saves that delay the next step, measurements. Steps after the last save of a
  start that was killed are lost, too.

  Attributes:
    begun: when the first start of the run began, in seconds since 1970.
  """

  def __init__(self, directory: os.PathLike, saved_step: int):
    """Continues the counts of an earlier start.

    Args:
      directory: of the run. There the heartbeat of process 0 has the time of
        the first start, and metrics.jsonl the time in steps that were kept.
      saved_step: the step that this start resumes from; 0: none.
    """
    lines = records.read_metrics(directory)
    counted = [line for line in lines if "kept_s" in line]
    kept = [line for line in counted if line["step"] <= saved_step]
    self._kept_s = kept[-1]["kept_s"] if kept else 0.0
    now = time.time()
    elapsed_s = counted[-1]["elapsed_s"] if counted else 0.0
    # A run that began with an earlier version, which did not count, counts from
    # now on.
    if len(counted) == len(lines):
      elapsed_s = max(elapsed_s, now - _begun(directory, now))
    self.begun = now - elapsed_s
    self._start = time.monotonic() - elapsed_s

  def line(self, steps_s: float) -> dict[str, float]:
    """Returns elapsed_s, kept_s of it in steps, and their ratio, goodput.

    Args:
      steps_s: seconds in steps since the last line.
    """
    self._kept_s += steps_s
    elapsed_s = time.monotonic() - self._start
    return {
      "elapsed_s": elapsed_s,
      "kept_s": self._kept_s,
      "goodput": self._kept_s / elapsed_s,
    }


def _begun(directory: os.PathLike, now: float) -> float:
  try:
    begun = heartbeat.begun(directory)
  except ValueError:  # Another version wrote it.
    return now
  return now if begun is None else begun
