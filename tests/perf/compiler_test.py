"""Programs are compiled for a TPU where there is none."""

import importlib.util
import os
import subprocess
import sys

import pytest

TOO_LARGE = """
import jax
from jax.experimental import topologies

from drope_jax.perf import compiler

compiler.prepare()
topology = topologies.get_topology_desc("v5e:2x2", platform="tpu")
where = jax.sharding.SingleDeviceSharding(topology.devices[0])
x = jax.ShapeDtypeStruct((44_032, 44_032), "float32", sharding=where)
found = compiler.compile(jax.jit(lambda a, b: a @ b @ a).lower(x, x))
print(found.fits, found.bytes)
"""


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu, the TPU's compiler: pip install libtpu",
)
def test_a_program_that_is_too_large_says_what_it_asks_for():
  environment = dict(os.environ)
  for name in ("JAX_PLATFORMS", "XLA_FLAGS"):
    environment.pop(name, None)
  ran = subprocess.run(
    [sys.executable, "-c", TOO_LARGE],
    stdout=subprocess.PIPE,
    env=environment,
    check=True,
  )
  fits, wanted = ran.stdout.split()
  assert fits == b"False"
  # Both arguments, and at least one product: 7.2 GiB each.
  assert 3 <= int(wanted) / (4 * 44_032**2) < 5
