"""XLA's flags for tests: compiling was most of their time."""

_FAST_TO_COMPILE = (
  "--xla_backend_optimization_level=0",
  # Fusions by MLIR take three to four times as long.
  "--xla_cpu_use_fusion_emitters=false",
  # Other processes run tests meanwhile; more parts take a third longer.
  "--xla_cpu_parallel_codegen_split_count=1",
)


def flags(devices: int) -> str:
  """Returns XLA_FLAGS for so many CPU devices, and programs of one run."""
  count = f"--xla_force_host_platform_device_count={devices}"
  return " ".join((count, *_FAST_TO_COMPILE))
