"""The meter, on a clock that the test sets."""

import types

import numpy as np
import pytest

from drope_jax.perf import flops
from drope_jax.train import meter


@pytest.fixture
def clock(monkeypatch):
  clock = types.SimpleNamespace(now=100.0)
  monkeypatch.setattr(meter.time, "monotonic", lambda: clock.now)

  def wait_until(when):
    clock.now = max(clock.now, when)

  monkeypatch.setattr(meter.jax, "block_until_ready", wait_until)
  return clock


def _meter(kind):
  devices = np.array([types.SimpleNamespace(device_kind=kind)] * 4)
  return meter.Meter(flops.Flops(1e9, 2e9), 1000, devices.reshape(2, 2))


def test_steps_are_timed_by_when_they_end(clock):
  measured = _meter("TPU v5e")
  clock.now = 200.0  # Compiling the probe, say.
  measured.restart()
  for end in (201.0, 203.0, 204.0, 208.0):
    with measured.waiting():
      clock.now += 0.25
    measured.start_step(end)
  line = measured.line()
  assert clock.now == 208.0
  assert line == {
    "tokens_per_s": 500.0,
    "tokens_per_s_per_chip": 125.0,
    "mfu_causal": 125.0 * 1e9 / 197e12,
    "mfu_noncausal": 125.0 * 2e9 / 197e12,
    "step_s_p50": 1.5,
    "step_s_p90": pytest.approx(3.4),
    "step_s_max": 4.0,
    "data_wait_s": 0.25,
  }
  clock.now = 300.0
  measured.restart()
  measured.start_step(301.0)
  assert measured.line()["tokens_per_s"] == 1000.0


def test_no_more_than_two_steps_are_under_way(clock):
  measured = _meter("cpu")
  measured.start_step(110.0)
  assert clock.now == 100.0
  measured.start_step(120.0)
  assert clock.now == 110.0
  line = measured.line()
  assert line["mfu_causal"] is None and line["mfu_noncausal"] is None


def test_what_is_no_part_of_a_step_is_left_out(clock):
  measured = _meter("cpu")
  measured.start_step(110.0)  # It compiles.
  assert measured.steps_s() == 0.0
  measured.restart()
  measured.start_step(112.0)
  with measured.paused():
    assert clock.now == 112.0
    clock.now += 50
  measured.start_step(165.0)
  assert measured.steps_s() == 2.0 + 3.0
  assert measured.line()["step_s_max"] == 3.0
