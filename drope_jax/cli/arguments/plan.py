r"""Compiles a recipe's training steps for a TPU slice, without a TPU.

It reports for each phase whether it fits, the memory of a chip, the computation
and communication, and the time at an assumed share of the peak. If a phase does
not fit, it searches for settings that do: first more rematerialization, then
more microbatches. With --eval it reports the same for `drope evaluate` of the
recipe's last model: prefill of a context, and decoding after it.
It needs libtpu, the TPU's compiler: pip install 'drope_jax[tpu]'

  drope plan recipes/qwen2_0_5b_drope.gin --topology v5e-16 --eval 8192
  drope plan recipes/llama2_7b_drope.gin --model models/llama2_7b.gin \
    --topology v5e-256 --quick
"""

import argparse

from drope_jax.cli.arguments import recipe_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  recipe_options.add_arguments(parser)
  recipe_options.add_model(parser)
  parser.add_argument(
    "--topology",
    required=True,
    metavar="SLICE",
    help="e.g. v5e-256, or 2xv5e-256 for two slices",
  )
  parser.add_argument(
    "--mfu",
    type=float,
    default=0.5,
    help="assumed share of the peak, for the hours, with causal FLOPs "
    "(default: %(default)s)",
  )
  parser.add_argument(
    "--eval",
    type=int,
    metavar="CONTEXT",
    help="also plan prefill and decoding at this many tokens (default: only "
    "training)",
  )
  parser.add_argument(
    "--eval-dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="of --eval, as --dtype of `drope evaluate` (default: %(default)s)",
  )
  parser.add_argument(
    "--quick",
    action="store_true",
    help="stop the compiler once it has assigned buffers, after seconds; the "
    "temporaries then lack the code, and a kernel that needs too much VMEM is "
    "not noticed",
  )
  parser.add_argument(
    "--save",
    metavar="DIR",
    help="write each program that fits into DIR; drope_jax.plan.saved.load "
    "reads it on such a slice, with the same jax and libtpu (default: none)",
  )
  parser.add_argument("--json", action="store_true", help="print JSON instead")
