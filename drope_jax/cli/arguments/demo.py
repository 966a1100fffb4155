"""Shows DroPE on the packaged corpus, in some minutes on two cores.

It loads a packaged RoPE model (base), as one would load an imported Llama. It
measures what each of its channel pairs contributes, drops those that fail
beyond its context, and trains on for some minutes at the original context, with
base as the teacher (live). It then evaluates at 1 to 8 times that context: both
models, base with PI, NTK and YaRN, and three packaged models. These are RoPE
trained for the same time (continued), the same drop trained for longer
(partial), and a drop of all positions (full).

  drope demo
  drope demo --out runs/demo --from-scratch
"""

import argparse

from drope_jax.cli.arguments import recipe_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    "--out", default="runs/demo", metavar="DIR", help="(default: %(default)s)"
  )
  parser.add_argument(
    "--from-scratch",
    action="store_true",
    help="also train the packaged models, in DIR/from_scratch, in about an "
    "hour and three quarters",
  )
  recipe_options.add_overrides(parser, "recipes/demo_live.gin")
