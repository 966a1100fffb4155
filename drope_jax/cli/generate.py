"""Continues a text with a model.

drope generate runs/demo/live/recalibrate --prompt 'The President'
"""

import argparse

from drope_jax.cli import terminal
from drope_jax.data import paths
from drope_jax.inference import lm as lms


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument("--prompt", required=True, metavar="TEXT")
  parser.add_argument(
    "--max-new-tokens",
    type=int,
    default=128,
    metavar="N",
    help="(default: %(default)s)",
  )
  parser.add_argument(
    "--temperature", type=float, default=0.0, help="0 (default) is greedy"
  )
  parser.add_argument(
    "--seed", type=int, default=0, help="for sampling (default: %(default)s)"
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


def run(args: argparse.Namespace) -> None:
  """Prints the prompt and its continuation."""
  if args.max_new_tokens < 1 or not args.temperature >= 0:
    raise ValueError(
      "generate needs --max-new-tokens of at least 1 and --temperature of at "
      f"least 0, got {args.max_new_tokens} and {args.temperature}. Raise them."
    )
  if args.logit_scale is not None and not args.logit_scale > 0:
    raise ValueError(
      "--logit-scale must be above 0, or all keys have the same weight, got "
      f"{args.logit_scale}. Raise it, or leave it out."
    )
  lm = lms.CheckpointLM.load(paths.resolve(args.checkpoint))
  if args.logit_scale is not None:
    lm = lm.with_logit_scale(args.logit_scale)
  if args.bos and lm.bos_id is None:
    raise ValueError(
      "--bos needs a tokenizer with BOS, got one without. Leave it out."
    )
  prompt = ([lm.bos_id] if args.bos else []) + lm.encode(args.prompt)
  tokens = len(prompt) + args.max_new_tokens
  if (
    tokens > lm.context_tokens
    and args.logit_scale is None
    and lm.config.logit_scale_slope is None
  ):
    terminal.say(
      f"{tokens:,} tokens are more than the trained context of "
      f"{lm.context_tokens:,}, and the model has no softmax scale for them. "
      "`drope evaluate` fits one, and `drope surgery --drop none "
      "--logit-scale-slope` stores it.",
      stderr=True,
    )
  (new,) = lm.generate(
    [prompt or [lm.eos_id]], args.max_new_tokens, args.temperature, args.seed
  )
  # Decoded together: decoding a piece alone may lose the space before it.
  terminal.print_output(lm.decode(prompt + new))
