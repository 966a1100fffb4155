r"""Shows a checkpoint's config, lineage and parameters, or a token store.

It reads no array, so it is fast at any size. With --sharding it shows what each
device of a TPU slice holds of every parameter, with a recipe's mesh. For a
checkpoint it uses a mesh with all devices on the fsdp axis.

  drope inspect runs/mine
  drope inspect stores/text
  drope inspect --sharding recipes/tiny.gin --topology v5e-8
  drope inspect --sharding recipes/llama2_7b_drope.gin \
    --model models/llama2_7b.gin --topology v5p-128
"""

import argparse

from drope_jax.cli.arguments import recipe_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    "checkpoint",
    metavar="CHECKPOINT",
    help="model checkpoint, run or step, or a token store; with --sharding "
    "also a CONFIG.gin",
  )
  parser.add_argument(
    "--sharding", action="store_true", help="show parameters on a TPU slice"
  )
  parser.add_argument(
    "--topology",
    metavar="SLICE",
    help="slice for --sharding, e.g. v5e-256 (default: none)",
  )
  recipe_options.add_model(parser)
  parser.add_argument("--json", action="store_true", help="print JSON instead")
