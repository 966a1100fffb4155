"""Drops positions, sets windows or theta, adds QK norms: to a new checkpoint.

The result is not the same function: recalibrate it with `drope train`, whose
surgery phase does the same as this command. With --text the damage is shown,
and kept in the new checkpoint as damage.json, which `drope report` draws.

  drope surgery CKPT --out NEW --text held_out.txt
  drope surgery CKPT --out NEW --drop 0-11,20 --text packaged:test
  drope surgery CKPT --out NEW --drop all --keep-rotations 1
  drope surgery CKPT --out NEW --drop 1-5 --window 0=32
  drope surgery CKPT --out NEW --drop none --scaling yarn --scaling-factor 8
  drope surgery CKPT --out NEW --qk-norm qk --qk-norm-init matched --text TEXT
"""

import argparse
import re


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument("--out", required=True, help="new checkpoint directory")
  parser.add_argument(
    "--drop",
    default="all",
    metavar="all|none|LAYERS",
    help="layers that lose their positions, counted from 0, such as 0-11,20 "
    "(default: all)",
  )
  kept = parser.add_mutually_exclusive_group()
  kept.add_argument(
    "--keep-rotations",
    type=float,
    metavar="R",
    help="drop slow channel pairs alone, and keep those that complete R "
    "rotations or more in the context; 1 is enough to have met every phase "
    "(default: keep none)",
  )
  kept.add_argument(
    "--keep-pairs",
    type=int,
    metavar="K",
    help="drop slow channel pairs alone, and keep the K fastest (default: "
    "keep none)",
  )
  parser.add_argument(
    "--window",
    action="append",
    default=[],
    type=_window,
    metavar="LAYER=TOKENS",
    help="that layer's queries see as many tokens, themselves included; may be "
    "repeated (default: as before)",
  )
  parser.add_argument(
    "--theta",
    type=float,
    help="of the rotary positions, before any drop (default: as before)",
  )
  parser.add_argument(
    "--scaling",
    choices=("pi", "ntk", "yarn", "longrope2"),
    help="of RoPE at every length from now on, to train on with it, with "
    "--drop none (default: as before)",
  )
  parser.add_argument(
    "--scaling-factor",
    type=float,
    metavar="S",
    help="times the context that --scaling is for (default: none, and it must "
    "be given with --scaling)",
  )
  parser.add_argument(
    "--qk-norm",
    default="none",
    choices=("none", "q", "k", "qk"),
    help="which of q and k get a norm (default: %(default)s)",
  )
  parser.add_argument(
    "--qk-norm-scope",
    default="joint",
    choices=("joint", "head"),
    help="one norm over all heads, as in the paper, or one in each head "
    "(default: %(default)s)",
  )
  parser.add_argument(
    "--qk-norm-init",
    default="unit",
    choices=("unit", "matched"),
    help="gains of one, as in the paper, or matched to the size that q and k "
    "have on the text (default: %(default)s)",
  )
  parser.add_argument(
    "--logit-scale", type=float, help="the model's new one (default: as it is)"
  )
  parser.add_argument(
    "--logit-scale-slope",
    type=float,
    metavar="C",
    help="multiply it by 1 + C ln s at s times the context, with the C that "
    "`drope evaluate` fitted (default: as it is)",
  )
  parser.add_argument(
    "--text",
    action="append",
    metavar="INPUT",
    help="held-out text to report the damage on, and to match gains on other "
    "parts of: a file, a folder, or packaged:test (default: no report)",
  )
  parser.add_argument(
    "--excerpt-tokens",
    type=int,
    metavar="N",
    help="length of each of its 8 excerpts (default: the context, "
    "at most 1024)",
  )
  parser.add_argument(
    "--pair-damage",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="measure what each rotary pair is worth, a forward pass of the "
    "excerpts for each (default: yes)",
  )


def _window(text: str) -> tuple[int, int]:
  found = re.fullmatch(r"(\d+)=(\d+)", text)
  if found is None:
    raise argparse.ArgumentTypeError(
      f"a window is LAYER=TOKENS such as 0=32, got {text!r}"
    )
  return int(found[1]), int(found[2])
