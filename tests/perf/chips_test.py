"""A core's rates are those that MFU is quoted by."""

import pytest

from drope_jax.perf import chips, flops


@pytest.mark.parametrize(
  "chip, kind", [("v5e", "TPU v5e"), ("v5p", "TPU v5p"), ("v6e", "TPU v6e")]
)
def test_a_chips_peak_is_its_cores_multiply_adds(chip, kind):
  core = chips.CORES[chip]
  peak = flops.peak(kind)
  assert 2 * core.macs * core.clock_hz * core.count == pytest.approx(peak, 2e-3)
