"""Writes text sampled from a model into a token store.

Documents are sampled at temperature 1 from the unchanged model. Each ends with
the model's end token, or when the trained context is full. A recipe with such a
store needs no other text: the store has the model's tokenizer.

  drope sample checkpoints/stories --tokens 20M --out stores/own
  drope sample checkpoints/stories --tokens 200K --seed 1 --out stores/held_out
"""

import argparse

from drope_jax.cli import counts
from drope_jax.cli.arguments import recipe_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument(
    "--tokens",
    type=counts.parse,
    required=True,
    metavar="N",
    help="tokens of the store, e.g. 20M; the last document may exceed them",
  )
  parser.add_argument("--out", required=True, metavar="STORE", help="a folder")
  parser.add_argument(
    "--seed",
    type=int,
    default=0,
    metavar="N",
    help="each seed gives other documents (default: %(default)s)",
  )
  parser.add_argument(
    "--temperature",
    type=float,
    default=1.0,
    metavar="T",
    help="divides the logits (default: %(default)s, the model's distribution)",
  )
  parser.add_argument(
    "--begin",
    choices=("bos", "eos"),
    help="the input before a document; BOS becomes its first token "
    "(default: bos if the tokenizer puts it before a text, else eos)",
  )
  parser.add_argument(
    "--batch",
    type=int,
    default=64,
    metavar="B",
    help="documents sampled at the same time (default: %(default)s)",
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="of weights and cache (default: %(default)s)",
  )
  recipe_options.add_mesh(parser)
