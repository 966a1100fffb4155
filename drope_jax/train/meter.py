"""The speed of a training: throughput, MFU, step times, waits for data."""

from collections.abc import Iterator, Mapping
import contextlib
import time
from typing import Any

import jax
import numpy as np

from drope_jax.perf import flops as flops_lib


class Meter:
  """Measures speed between two lines of metrics.

  At each step it waits for the step before, so that at most two are running.
  """

  def __init__(
    self, flops: flops_lib.Flops, step_tokens: int, devices: np.ndarray
  ):
    """Starts to measure.

    Args:
      flops: of one token.
      step_tokens: tokens of a step, over all devices.
      devices: of the mesh, all of one kind.
    """
    self._flops = flops
    self._step_tokens = step_tokens
    self._chips = devices.size
    self._peak = flops_lib.peak(devices.flat[0].device_kind)
    self._compiles = True
    self._paused_s = 0.0
    self.restart()

  def restart(self) -> None:
    """Starts to measure anew from now on."""
    self._under_way: Mapping[str, Any] | None = None
    self._waited_s = 0.0
    self._clock = self._now()
    self._ends: list[float] = []

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Surrounds the wait for a batch."""
    start = self._now()
    yield
    self._waited_s += self._now() - start

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Surrounds what is no part of a step; waits for running steps first."""
    self._await_step()
    start = time.monotonic()
    yield
    self._paused_s += time.monotonic() - start

  def start_step(self, metrics: Mapping[str, jax.Array]) -> None:
    """Notes the metrics of a step that was just dispatched."""
    self._await_step()
    self._under_way = metrics

  def line(self) -> dict[str, Any]:
    """Waits for the last step, and returns what was measured.

    That is tokens_per_s and tokens_per_s_per_chip; mfu_causal and
    mfu_noncausal, relative to the bfloat16 peak, or None where the peak is not
    known; the median, the 90th percentile and the maximum of the step time; and
    data_wait_s, the host's wait for data in a step, which costs nothing while
    the devices compute.
    """
    self._await_step()
    elapsed_s = self._ends[-1] - self._clock
    step_s = self._step_s()
    rate = len(self._ends) * self._step_tokens / elapsed_s
    rate_of_chip = rate / self._chips

    def mfu(flops: float) -> float | None:
      return self._peak and flops * rate_of_chip / self._peak

    return {
      "tokens_per_s": rate,
      "tokens_per_s_per_chip": rate_of_chip,
      "mfu_causal": mfu(self._flops.causal),
      "mfu_noncausal": mfu(self._flops.noncausal),
      "step_s_p50": float(np.percentile(step_s, 50)),
      "step_s_p90": float(np.percentile(step_s, 90)),
      "step_s_max": float(step_s.max()),
      "data_wait_s": self._waited_s / len(self._ends),
    }

  def steps_s(self) -> float:
    """Returns the time of all steps except the first, which compiles."""
    self._await_step()
    first, self._compiles = int(self._compiles), False
    return float(self._step_s()[first:].sum())

  def _step_s(self) -> np.ndarray:
    return np.diff([self._clock, *self._ends])

  def _now(self) -> float:
    return time.monotonic() - self._paused_s

  def _await_step(self) -> None:
    if self._under_way is not None:
      jax.block_until_ready(self._under_way)
      self._ends.append(self._now())
      self._under_way = None
