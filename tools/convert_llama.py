"""Converts weights of other projects to a checkpoint, as `drope convert`.

python tools/convert_llama.py SmolLM2-135M/ --out smollm2
"""

import argparse
import sys

from drope_jax.cli import main as cli
from drope_jax.cli.arguments import convert


def main() -> int:
  """Runs `drope convert`; a mistake is one line and exit status 2."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  convert.add_arguments(parser)
  parser.parse_args()  # Prints help and mistakes under this program's name.
  return cli.main(["convert", *sys.argv[1:]])


if __name__ == "__main__":
  sys.exit(main())
