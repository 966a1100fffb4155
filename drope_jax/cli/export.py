"""`drope export`: a checkpoint to a Hugging Face folder."""

import argparse

from drope_jax.analysis import runs
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store
from drope_jax.checkpoint.formats import export, model_card
from drope_jax.cli import flags, terminal
from drope_jax.data import paths

FLAGS = {
  "format": "--format",
  "architecture": "--architecture",
  "context_tokens": "--context",
  "logit_scale": "--logit-scale",
}
"""Of the library's parameters."""


def run(args: argparse.Namespace) -> None:
  """Writes the folder and says what it is."""
  out = paths.local(args.out, "An export's folder")
  checkpoint = store.locate(paths.resolve(args.checkpoint))
  figures = _figures(args, store.describe(checkpoint)[0])
  with flags.naming(FLAGS):
    options = export.Options(
      format=args.format,
      architecture=args.architecture,
      context_tokens=args.context,
      logit_scale=args.logit_scale,
      figures=figures,
    )
    exported = export.export(checkpoint, out, options)
  terminal.say(flags.named(f"{out}: {exported.architecture}", FLAGS))
  for line in exported.differences:
    terminal.say(flags.named(line, FLAGS))


def _figures(
  args: argparse.Namespace, manifest: manifests.Manifest
) -> model_card.Figures:
  if args.results is None:
    return model_card.Figures()
  folder = paths.local(args.results, "--results")
  results = runs.load(folder).results
  if results is None:
    raise FileNotFoundError(
      f"--results takes a folder with results.json, got none in {folder}. "
      "Name the --out of `drope evaluate`."
    )
  return model_card.figures(results, manifest, folder)
