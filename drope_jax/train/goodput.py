"""Which share of a run's time went into steps that were kept."""

import os
import time

from drope_jax.analysis import records
from drope_jax.train import heartbeat


class Goodput:
  """Counts a run's time since its first start, over all that came between.

  What is no step counts against it: waiting for machines, compiling, loading,
  saves that hold up the next step, measurements; and so do steps that were
  taken after the last save of a start that was killed.

  Attributes:
    begun: when the run's first start began, in seconds since 1970.
  """

  def __init__(self, directory: os.PathLike, saved_step: int):
    """Goes on with what an earlier start counted.

    Args:
      directory: the run's; the first process's heartbeat there says when it
        was begun, and metrics.jsonl what was kept.
      saved_step: that this start resumes from; 0: none.
    """
    lines = records.read_metrics(directory)
    counted = [line for line in lines if "kept_s" in line]
    kept = [line for line in counted if line["step"] <= saved_step]
    self._kept_s = kept[-1]["kept_s"] if kept else 0.0
    now = time.time()
    elapsed_s = counted[-1]["elapsed_s"] if counted else 0.0
    # Of a run that was begun before they were counted, they count from here.
    if len(counted) == len(lines):
      elapsed_s = max(elapsed_s, now - _begun(directory, now))
    self.begun = now - elapsed_s
    self._start = time.monotonic() - elapsed_s

  def line(self, steps_s: float) -> dict[str, float]:
    """Returns elapsed_s, kept_s of it, and their ratio, goodput.

    Args:
      steps_s: that steps have taken since the last line.
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
  except ValueError:  # Another version's; metrics.jsonl has most of it.
    return now
  return now if begun is None else begun
