"""Perplexity, retrieval and benchmarks, at multiples of the context.

Every position method reads the same samples, without a softmax scale and with
its own, fitted on a split of its own. Text is the packaged corpus, or yours.
Several checkpoints are compared on the same samples; pi, ntk and yarn apply to
those with plain RoPE.

  drope evaluate CKPT --eval multi_key,perplexity --factors 1,2,4,8
  drope evaluate CKPT --positions model,pi,ntk,yarn --samples 200 --out OUT
  drope evaluate CKPT --suite evals/standard.gin --text t.txt --fit-text f.txt
  drope evaluate base=runs/a dropped=runs/b --positions model,yarn --out OUT
  drope evaluate CKPT --factors 16,32 --mesh long
  drope evaluate CKPT --eval harness --tasks arc_easy,hellaswag
  drope evaluate CKPT --eval perplexity --save-scale
"""

import argparse

from drope_jax.cli import counts
from drope_jax.cli.arguments import recipe_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    "checkpoints",
    nargs="+",
    metavar="[NAME=]CKPT",
    help="model checkpoint, run, or step; NAME in results (default: folder's)",
  )
  parser.add_argument(
    "--suite",
    metavar="SUITE.gin",
    help="what to evaluate (default: evals/standard.gin, or evals/harness.gin "
    "with --eval harness); the flags below override it",
  )
  recipe_options.add_overrides(parser, "the suite's")
  parser.add_argument(
    "--eval",
    metavar="NAME,...",
    help="tasks such as perplexity and passkey, or groups of them such as "
    "niah; an unknown name is answered with all (default: the suite's)",
  )
  parser.add_argument(
    "--tasks",
    metavar="NAME,...",
    help="of lm-evaluation-harness, or .yaml files of such, with --eval "
    "harness (default: the suite's)",
  )
  parser.add_argument(
    "--factors", metavar="F,...", help="of the context (default: the suite's)"
  )
  parser.add_argument(
    "--positions",
    metavar="M,...",
    help="model, crop (the end alone, which the context has room for), rope, "
    "pi, ntk, yarn, longrope2, dynamic_ntk (by each text's own length) and so "
    "on (default: the suite's)",
  )
  parser.add_argument(
    "--samples",
    type=int,
    metavar="N",
    help="of each task with questions and factor (default: the suite's for the "
    "factor, or its first)",
  )
  parser.add_argument(
    "--excerpts",
    type=int,
    metavar="N",
    help="of text, for perplexity (default: the suite's)",
  )
  parser.add_argument(
    "--seed", type=int, metavar="N", help="of all draws (default: the suite's)"
  )
  parser.add_argument(
    "--text",
    action="append",
    metavar="INPUT",
    help="held-out text to test on (default: packaged:test)",
  )
  parser.add_argument(
    "--fit-text",
    action="append",
    metavar="INPUT",
    help="other held-out text, to fit the softmax scale on; needed beside "
    "--text by suites that fit one (default: packaged:fit)",
  )
  parser.add_argument(
    "--save-scale",
    action="store_true",
    help="write the fitted softmax scale's slope into each checkpoint, whose "
    "generation and later evaluations then use it beyond the trained context",
  )
  recipe_options.add_mesh(parser)
  parser.add_argument(
    "--out", metavar="DIR", help="folder for results.json (default: none)"
  )
  recipe_options.add_dtype(parser)
  parser.add_argument(
    "--keep-outputs",
    action="store_true",
    help="keep every prompt and output in --out as well, in samples.jsonl",
  )
  parser.add_argument(
    "--share",
    type=counts.part,
    metavar="K/N",
    help="evaluate the K-th of N shares, for N hosts with one --out; then the "
    "same command without --share gathers them (default: evaluate all)",
  )
