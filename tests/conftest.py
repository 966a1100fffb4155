"""What every test shares: eight virtual CPU devices, and real data if any."""

import os
import pathlib

# Before any test imports jax, which reads them once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
  ]
).strip()

import pytest


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
  """The folder named by DROPE_TEST_DATA; the test is skipped without one."""
  folder = os.environ.get("DROPE_TEST_DATA")
  if not folder:
    pytest.skip("needs real data: DROPE_TEST_DATA names no folder")
  path = pathlib.Path(folder)
  if not path.is_dir():
    pytest.fail(f"DROPE_TEST_DATA must name a folder, got {folder}. Unset it.")
  return path
