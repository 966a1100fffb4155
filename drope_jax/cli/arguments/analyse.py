r"""What the attention of a model does with positions: figures and a json each.

MODEL is a checkpoint, or the CONFIG.gin of a model, which then has random
weights. `drope analyse MODEL bias --help` explains an analysis and its options.

  bias         which positions heads prefer, and how fast they can learn to
  heads        which are positional or find a needle, and what scalings do
  frequencies  what scalings do to rotary pairs, and what each pair is worth
  crop         whether scalings of RoPE read more than the end of a text
  recovery     loss and retrieval by tokens, the laws of a training, its spikes

  drope analyse models/demo.gin bias --positions rope,partial,alibi,nope \
    --seeds 3 --out runs/bias
  drope analyse packaged:checkpoints/demo_base bias --out runs/base_bias
  drope analyse runs/mine bias --every-save --out runs/mine_bias
  drope analyse packaged:checkpoints/demo_base heads \
    --after packaged:checkpoints/demo_drope --out runs/base_heads
  drope analyse packaged:checkpoints/demo_base frequencies --out runs/pairs
  drope analyse packaged:checkpoints/demo_base crop --out runs/crop
  drope analyse runs/mine recovery --out runs/mine_recovery
"""

import argparse

from drope_jax.cli.arguments import recipe_options

_WHAT = ("bias", "heads", "frequencies", "crop", "recovery")

_BIAS = """The positional bias of heads to the current and the previous token.

A bias is 0 for uniform attention and 1 for a head that attends to that token
alone. The norm of its gradient says how fast training can form such a head. It
is measured by layer, with other positions in place of the model's, and the
spread of the hidden states as embeddings are drawn together.
Writes bias.json, gradients.svg, values.svg and spread.svg; with --every-save
along_training.svg in their place.
"""

_HEADS = """What each head attends to: a near offset, a needle, the first token.

Heads are scored at the trained context by their bias to the offsets 0, 1 and 2,
and by the last token's attention to a needle that it is asked for. The best are
shown under each scaling of RoPE at longer lengths.
Writes heads.json, scores.svg, offsets.svg, needle.svg, first_token.svg, and
heads.html, a page on which head, positions and length are chosen.
"""

_FREQUENCIES = """What each rotary pair is worth, and what scalings do to it.

Shows each scaling's factor of every pair's frequency, and the rotations that
the pair completes in the context. Then one pair at a time is removed, or its
frequency divided, at the trained context: by how much does the loss rise, and
how many questions about needles are no longer answered (every token of the
answer the most likely one)? Writes frequencies.json, scalings.svg, costs.svg.
"""

_CROP = """Loss and retrieval by length: RoPE, its scalings, the cropped model.

The cropped model reads only the end of a text, as much as its context holds. A
scaling that scores like it does not use what stands further back.
Writes crop.json and crop.svg.
"""

_RECOVERY = """A training's curves against tokens, from its logs and its saves.

Reads the metrics.jsonl of a run, or NAME.metrics.jsonl beside a checkpoint
NAME. Fits loss = limit + scale * tokens^-exponent to each phase, with
intervals; finds spikes; and reads loss and retrieval of every save that the run
kept. Writes recovery.json, recovery.svg, and spikes.svg.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("model", metavar="MODEL", help="CKPT or CONFIG.gin")
  analyses = parser.add_subparsers(
    dest="what", metavar="WHAT", required=True, help=", ".join(_WHAT)
  )
  _add_bias(_analysis(analyses, "bias", _BIAS))
  _add_heads(_analysis(analyses, "heads", _HEADS))
  _add_frequencies(_analysis(analyses, "frequencies", _FREQUENCIES))
  _add_crop(_analysis(analyses, "crop", _CROP))
  _add_recovery(_analysis(analyses, "recovery", _RECOVERY))


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
    "--begin-with-bos",
    action="store_true",
    help="begin every text with BOS, as imported Llamas expect",
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
    metavar="P,...",
    help="model (its own), rope, partial (only pairs that complete a rotation "
    "in the context), alibi, nope (default: model,nope)",
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


def _add_factors(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--factors",
    default="1,2,4,8",
    metavar="F,...",
    help="lengths, as multiples of the context (default: %(default)s)",
  )


def _add_prompts(parser: argparse.ArgumentParser, prompts: int) -> None:
  parser.add_argument(
    "--prompts",
    type=int,
    default=prompts,
    metavar="N",
    help="questions about one of four needles (default: %(default)s)",
  )


def _add_heads(parser: argparse.ArgumentParser) -> None:
  _add_text(parser, 2)
  _add_prompts(parser, 8)
  _add_factors(parser)
  parser.add_argument(
    "--heads",
    type=int,
    default=4,
    metavar="N",
    help="most positional and most semantic heads that are shown (default: "
    "%(default)s)",
  )
  parser.add_argument(
    "--after",
    metavar="CKPT",
    help="the model after its drop, for the first token and the largest "
    "activations (default: the model itself, without positions)",
  )


def _add_frequencies(parser: argparse.ArgumentParser) -> None:
  _add_text(parser, 8)
  _add_prompts(parser, 32)
  parser.add_argument(
    "--factors",
    default="2,3,4",
    metavar="F,...",
    help="of scalings, as multiples of the context (default: %(default)s)",
  )
  parser.add_argument(
    "--divide",
    type=float,
    default=2.0,
    metavar="S",
    help="by which one pair's frequency is divided (default: %(default)s)",
  )


def _add_crop(parser: argparse.ArgumentParser) -> None:
  _add_text(parser, 8)
  _add_prompts(parser, 32)
  _add_factors(parser)


def _add_recovery(parser: argparse.ArgumentParser) -> None:
  _add_text(parser, 8)
  _add_prompts(parser, 32)
