"""Turns other projects' weights into a checkpoint, exactly or not at all.

SRC is a Hugging Face folder (Llama 2 and 3, TinyLlama, SmolLM, SmolLM2,
SmolLM3, Qwen2, Qwen2.5, Qwen3, Mistral, OLMo 2 and 3, Phi-3 and Phi-4,
Seed-OSS, ERNIE 4.5), a folder of Meta's (Llama 1 to 3.3), a llama2.c .bin, or a
.gguf file.

  drope convert SmolLM2-135M/ --out smollm2
  drope convert Llama-2-7b-hf/ --out gs://bucket/llama2 --dtype bfloat16
  drope convert Llama3.1-8B/ --out llama31 --llama 3.1
  drope convert stories15M.bin --out stories --tokenizer tokenizer.model
"""

import argparse

from drope_jax.checkpoint import store
from drope_jax.checkpoint.formats import convert, leaves, meta
from drope_jax.cli import terminal, verify
from drope_jax.data import paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("source", metavar="SRC", help="see above")
  parser.add_argument("--out", required=True, help="new checkpoint directory")
  parser.add_argument(
    "--dtype",
    default=leaves.KEEP,
    choices=("bfloat16", "float32", leaves.KEEP),
    help="of the weights (default: keep the source's)",
  )
  parser.add_argument(
    "--llama",
    choices=tuple(meta.RELEASES),
    help="which Llama a folder of Meta's holds, as it does not say so itself "
    "(default: none)",
  )
  parser.add_argument(
    "--tokenizer",
    metavar="FILE",
    help="a .model, tokenizer.json or vocab.json (default: the one that lies "
    "with SRC)",
  )
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace a checkpoint at OUT, once the new one is whole",
  )
  parser.add_argument(
    "--allow-nonfinite",
    action="store_true",
    help="let NaN and infinite weights through",
  )
  parser.add_argument(
    "--verify",
    action="store_true",
    help="compare the logits with those of transformers, which must be "
    "installed",
  )


def run(args: argparse.Namespace) -> None:
  """Writes the checkpoint and says what it holds."""
  path = paths.local(args.source, "What is converted")
  if args.verify and (path.is_file() or meta.is_folder(path)):
    raise ValueError(
      f"--verify needs a folder that transformers reads, got {path}. Leave "
      "it out; `drope export` writes such a folder."
    )
  tokenizer = args.tokenizer
  converted = convert.convert(
    path,
    args.out,
    dtype=args.dtype,
    llama=args.llama,
    tokenizer=tokenizer and paths.local(tokenizer, "--tokenizer"),
    overwrite=args.overwrite,
    allow_nonfinite=args.allow_nonfinite,
  )
  manifest = converted.manifest
  name = manifest.tokenizer.filename if manifest.tokenizer else "no tokenizer"
  terminal.say(
    f"{args.out}: {converted.parameters:,} parameters in "
    f"{' and '.join(converted.dtypes)}, {name}"
  )
  if unused := manifest.unused_ids:
    terminal.say(
      f"The model's last {unused:,} of {manifest.model.vocab_size:,} ids have "
      f"no piece in {name}."
    )
  if args.verify:
    terminal.say(verify.compare(path, store.locate(args.out)))
