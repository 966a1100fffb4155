"""Turns other projects' weights into a checkpoint, exactly or not at all.

SRC is a Hugging Face folder (Llama 2 and 3, TinyLlama, SmolLM, SmolLM2,
SmolLM3, Qwen2, Qwen2.5, Qwen3, Mistral, OLMo 2 and 3, Phi-3 and Phi-4, Gemma 2
and 3, Granite, GPT-2, GPT-NeoX, Pythia, Seed-OSS, ERNIE 4.5), a folder of
Meta's (Llama 1 to 3.3), a llama2.c .bin, or a .gguf file.

  drope convert SmolLM2-135M/ --out smollm2
  drope convert Llama-2-7b-hf/ --out gs://bucket/llama2 --dtype bfloat16
  drope convert Llama3.1-8B/ --out llama31 --llama 3.1
  drope convert stories15M.bin --out stories --tokenizer tokenizer.model
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("source", metavar="SRC", help="see above")
  parser.add_argument("--out", required=True, help="new checkpoint directory")
  parser.add_argument(
    "--dtype",
    default="keep",
    choices=("bfloat16", "float32", "keep"),
    help="of the weights (default: keep the source's)",
  )
  parser.add_argument(
    "--llama",
    choices=("1", "2", "3", "3.1", "3.2", "3.3"),
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
