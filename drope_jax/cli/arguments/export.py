"""Writes a checkpoint as a stock Hugging Face folder, exactly or not at all.

The architecture is the plainest that transformers has and that holds the model
exactly: what it came from, or Llama, Mistral, Qwen2, Qwen3; SmolLM3 where
layers have no positions; OLMoE with one expert where norms of q and k are over
all heads; OLMo 2 or 3 where norms follow attention and the MLP. The folder
needs no code of ours. A model without positions is not held to its trained
context: config.json has the length that it was evaluated to, with --results, or
else 8 times the trained one.

  drope export runs/drope --out drope-hf
  drope export runs/drope --out drope-hf --results runs/scores
  drope export runs/drope --out drope-hf --context 32768
  drope export runs/drope --out drope-hf --logit-scale 1.2
  drope export runs/drope --out drope-sakana --format sakana
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument("--out", required=True, help="new folder")
  parser.add_argument(
    "--format",
    default="hf",
    choices=("hf", "sakana"),
    help="hf: a stock architecture; sakana: the layout of the DroPE "
    "paper's repository, which needs its code (default: hf)",
  )
  parser.add_argument(
    "--architecture",
    metavar="NAME",
    help="the stock architecture to write, such as llama (default: the "
    "plainest one that can hold the model)",
  )
  parser.add_argument(
    "--results",
    metavar="DIR",
    help="the results of `drope evaluate` for this checkpoint: figures for "
    "README.md, and the context of a model without positions (default: none)",
  )
  parser.add_argument(
    "--context",
    type=int,
    metavar="N",
    help="how many tokens a client may read, for a model without positions; if "
    "a slope was fitted, q's weights are multiplied by the softmax scale of "
    "this length (default: the longest of --results, or 8 times the trained "
    "context, without a scale)",
  )
  parser.add_argument(
    "--logit-scale",
    type=float,
    metavar="S",
    help="multiply q's weights by this softmax scale, in place of the "
    "checkpoint's own and of that of --context (default: none)",
  )
