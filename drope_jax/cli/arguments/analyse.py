r"""What the attention of a model does with positions: figures and a json each.

MODEL is a checkpoint, or the CONFIG.gin of a model, which then has random
weights. `drope analyse MODEL bias --help` explains an analysis and its options.

  bias   which positions heads prefer, and how fast they can learn to

  drope analyse models/demo.gin bias --positions rope,partial,alibi,nope \
    --seeds 3 --out runs/bias
  drope analyse packaged:checkpoints/demo_base bias --out runs/base_bias
  drope analyse runs/mine bias --every-save --out runs/mine_bias
"""

import argparse

from drope_jax.cli.arguments import recipe_options

_BIAS = """The positional bias of heads to the current and the previous token.

A bias is 0 for uniform attention and 1 for a head that attends to that token
alone. The norm of its gradient says how fast training can form such a head. It
is measured by layer, with other positions in place of the model's, and the
spread of the hidden states as embeddings are drawn together.
Writes bias.json, gradients.svg, values.svg and spread.svg; with --every-save
along_training.svg in their place.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("model", metavar="MODEL", help="CKPT or CONFIG.gin")
  analyses = parser.add_subparsers(
    dest="what", metavar="WHAT", required=True, help="bias"
  )
  _add_bias(_analysis(analyses, "bias", _BIAS))


def _analysis(analyses, name: str, text: str) -> argparse.ArgumentParser:
  """Returns a new analysis's parser, with what all of them take."""
  parser = analyses.add_parser(
    name,
    description=text,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    "--out", required=True, metavar="DIR", help="folder for what it writes"
  )
  recipe_options.add_overrides(parser, "a CONFIG.gin's")
  return parser


def _add_text(parser: argparse.ArgumentParser, sequences: int) -> None:
  parser.add_argument(
    "--text",
    action="append",
    metavar="INPUT",
    help="held-out text: a file, a folder (default: packaged:test)",
  )
  parser.add_argument(
    "--sequences",
    type=int,
    default=sequences,
    metavar="N",
    help="excerpts of it (default: %(default)s)",
  )


def _add_seeds(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--seeds",
    type=int,
    default=1,
    metavar="N",
    help="of random weights, and of the excerpts (default: %(default)s)",
  )


def _add_bias(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--positions",
    default="model,nope",
    metavar="P,...",
    help="model (its own), rope, partial (only pairs that complete a rotation "
    "in the context), alibi, nope (default: %(default)s)",
  )
  _add_seeds(parser)
  _add_text(parser, 4)
  parser.add_argument(
    "--tokens",
    type=int,
    metavar="T",
    help="of an excerpt (default: the context, at most 512)",
  )
  parser.add_argument(
    "--weights",
    metavar="FILE.npy",
    help="weights c of a third pattern, T x T: a row for each query, which "
    "sums to 0 up to the diagonal (default: none)",
  )
  parser.add_argument(
    "--every-save",
    action="store_true",
    help="analyse each saved step of a run, with the model's own positions",
  )
