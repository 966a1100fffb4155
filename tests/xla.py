"""XLA's flags for tests: compiling was most of their time."""

from importlib import metadata

# Fusions by MLIR take three to four times as long; jaxlib 0.11 has no others,
# and XLA ends the process at a flag that it does not know.
_OLD = metadata.version("jaxlib").startswith("0.10.")
_FAST_TO_COMPILE = (
  "--xla_backend_optimization_level=0",
  *(("--xla_cpu_use_fusion_emitters=false",) if _OLD else ()),
  # Other processes run tests meanwhile; more parts take a third longer.
  "--xla_cpu_parallel_codegen_split_count=1",
)


def flags(devices: int) -> str:
  """Returns XLA_FLAGS for so many CPU devices, and programs of one run."""
  count = f"--xla_force_host_platform_device_count={devices}"
  return " ".join((count, *_FAST_TO_COMPILE))
