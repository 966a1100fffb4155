"""Trims a checkpoint's vocabulary to the tokens that a token store has most.

A large vocabulary is most of a small model's work. Special tokens, bytes and
what merges go through are kept, so that the trimmed tokenizer encodes any text
that the whole one does. The store is of that tokenizer; with `drope sample`
it can be the model's own.

  drope sample models/stories --tokens 400K --out stores/own
  drope trim models/stories stores/own --vocabulary 4096 --out models/trimmed
  drope sample models/trimmed --tokens 20M --out stores/trimmed
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument("store", help="of text whose tokens are counted")
  parser.add_argument(
    "--vocabulary",
    type=int,
    required=True,
    metavar="V",
    help="tokens to keep, e.g. 4096",
  )
  parser.add_argument("--out", required=True, help="new checkpoint directory")
