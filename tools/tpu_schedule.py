"""Prints the static schedule of a program's TPU kernels, without a TPU.

FUNCTION takes the keywords of --kwargs and returns a function to compile and
its arguments, as jax.ShapeDtypeStructs. The figures are cycles of the
compiler's schedule, not hardware timings: see drope_jax/perf/schedule.py.

python tools/tpu_schedule.py my_module:my_function --topology v6e:2x2
"""

import argparse
import json
import sys

from drope_jax.perf import schedule


def main() -> None:
  """Prints each kernel's schedule."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("target", metavar="MODULE:FUNCTION")
  parser.add_argument("--topology", default="v5e:2x2")
  parser.add_argument("--kwargs", type=json.loads, default={}, metavar="JSON")
  args = parser.parse_args()
  try:
    program = schedule.compiled(args.target, args.topology, args.kwargs)
  except ValueError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
  print("Cycles of the compiler's schedule; not hardware timings.")
  for kernel in program.kernels.values():
    print(f"\n{kernel.name}")
    print(f"  every step: {kernel.step}")
    for name in ("tiles", "parts", "before", "after"):
      print(f"  {name}: {', '.join(map(str, getattr(kernel, name))) or 'none'}")
    print(f"  every part: {kernel.part_step}")
    print(f"  register spills: {kernel.spills}")
    print(f"  VMEM: {kernel.vmem_bytes / 2**20:.1f} MiB")
  print(f"\nHBM temporaries: {program.temporary_bytes / 2**20:.1f} MiB")
  print(f"HBM accessed: {program.accessed_bytes / 2**20:.1f} MiB")


if __name__ == "__main__":
  main()
