"""Writes the token stores of the recipes on the packaged text to --out."""

import argparse

from drope_jax.cli import demo_data


def main() -> None:
  """Writes the stores; the same command resumes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", required=True, metavar="DIR")
  args = parser.parse_args()
  demo_data.write(args.out, tuple(demo_data.STORES), on_store=print)


if __name__ == "__main__":
  main()
