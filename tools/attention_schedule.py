"""Prints how one attention kernel's cycles add up for a causal sequence.

A schedule from the TPU's compiler, not a hardware timing; libtpu is needed, a
TPU is not.

python tools/attention_schedule.py flash --chip v6e --head-dim 64
python tools/attention_schedule.py flash --tokens 8192 --group-size 8
"""

import argparse
import sys

import jax

from drope_jax.perf import chips
from drope_jax.perf.attention import PRODUCTS, Case, kernel_of
from drope_jax.perf.attention_targets import OPTIONS


def main() -> None:
  """Prints one case."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("kernel", choices=("flash", "splash", "tokamax"))
  parser.add_argument("--chip", choices=chips.CORES, default="v5e")
  parser.add_argument("--tokens", type=int, default=4096, metavar="T")
  parser.add_argument("--head-dim", type=int, default=128, metavar="D")
  parser.add_argument("--option", choices=OPTIONS, default="plain")
  parser.add_argument(
    "--group-size", type=int, default=1, help="query heads a key/value head"
  )
  parser.add_argument(
    "--block",
    type=int,
    nargs=3,
    default=(1024, 1024, 512),
    metavar="N",
    help="of splash and tokamax",
  )
  args = parser.parse_args()
  # Only the compiler's process uses libtpu.
  jax.config.update("jax_platforms", "cpu")
  ours = args.kernel == "flash"
  if not ours and (args.option, args.group_size) != ("plain", 1):
    parser.error("--option and --group-size are for flash only")
  case = Case(
    args.kernel,
    args.chip,
    args.tokens,
    args.head_dim,
    None if ours else tuple(args.block),
    args.option,
    args.group_size,
  )
  try:
    program = case.compiled()
    for direction in PRODUCTS:
      kernel = kernel_of(program, direction)
      cycles = case.cycles(direction, kernel)
      print(
        f"{direction}: {cycles:.0f} cycles a head, static MFU "
        f"{case.mfu(direction, cycles):.3f}; a step {kernel.step}, tiles "
        f"{kernel.tiles}, parts {kernel.parts} and {kernel.part_step} each, "
        f"others {kernel.before} {kernel.after}"
      )
  except ValueError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
  print(f"HBM temporaries: {program.temporary_bytes / 2**20:.0f} MiB")


if __name__ == "__main__":
  main()
