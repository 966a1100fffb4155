"""`drope convert`: other projects' weights to a checkpoint."""

import argparse

from drope_jax.checkpoint import store
from drope_jax.checkpoint.formats import convert, meta
from drope_jax.cli import flags, terminal, verify
from drope_jax.data import paths

_FLAGS = {"llama": "--llama", "allow_nonfinite": "--allow-nonfinite"}


def run(args: argparse.Namespace) -> None:
  """Writes the checkpoint and says what it holds."""
  path = paths.local(args.source, "What is converted")
  if args.verify and (path.is_file() or meta.is_folder(path)):
    raise ValueError(
      f"--verify needs a folder that transformers reads, got {path}. Leave "
      "it out; `drope export` writes such a folder."
    )
  if args.verify:
    verify.require_installed()
  tokenizer = args.tokenizer
  with flags.naming(_FLAGS):
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
