"""Continues prompts.

A single continuation is printed while it is generated; several are printed when
all are done. Beyond the trained context, attention logits are multiplied by the
checkpoint's softmax scale.

  drope generate runs/demo/live/recalibrate --prompt 'The President'
  drope generate CKPT --prompt-file letter.txt --temperature 0.8 --top-p 0.95
  drope generate CKPT --prompt A --prompt B --temperature 1 --num-samples 4
  cat letter.txt | drope generate CKPT --prompt-file -
"""

import argparse

from drope_jax.cli.arguments import recipe_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument(
    "--prompt",
    action="append",
    metavar="TEXT",
    help="may be repeated (default: none)",
  )
  parser.add_argument(
    "--prompt-file",
    action="append",
    metavar="FILE",
    help="file with one prompt; - is standard input; may be repeated (default: "
    "none)",
  )
  parser.add_argument(
    "--max-new-tokens",
    type=int,
    default=128,
    metavar="N",
    help="(default: %(default)s)",
  )
  parser.add_argument(
    "--num-samples",
    type=int,
    default=1,
    metavar="N",
    help="continuations of each prompt (default: %(default)s)",
  )
  parser.add_argument(
    "--temperature", type=float, default=0.0, help="0 (default) is greedy"
  )
  parser.add_argument(
    "--top-k",
    type=int,
    metavar="K",
    help="draw from the K most probable tokens (default: from all)",
  )
  parser.add_argument(
    "--top-p",
    type=float,
    metavar="P",
    help="draw from the most probable tokens with a total probability of P "
    "(default: from all)",
  )
  parser.add_argument(
    "--min-p",
    type=float,
    metavar="P",
    help="draw from tokens of at least P times the largest probability "
    "(default: from all)",
  )
  parser.add_argument(
    "--repetition-penalty",
    type=float,
    metavar="X",
    help="divide positive logits of earlier tokens by X, and multiply negative "
    "ones (default: none)",
  )
  parser.add_argument(
    "--seed", type=int, default=0, help="for sampling (default: %(default)s)"
  )
  parser.add_argument(
    "--stop",
    action="append",
    default=[],
    metavar="TEXT",
    help="text that ends a continuation, and is left out; may be repeated "
    "(default: none)",
  )
  parser.add_argument(
    "--logit-scale",
    type=float,
    help="multiplies attention logits (default: the checkpoint's own scale for "
    "the total length)",
  )
  parser.add_argument(
    "--bos", action="store_true", help="begin with BOS, as Llama models expect"
  )
  parser.add_argument(
    "--json",
    action="store_true",
    help="print each continuation as one line of JSON",
  )
  recipe_options.add_dtype(parser)
