"""Writes a checkpoint as a stock Hugging Face folder, exactly or not at all.

The architecture is the plainest that transformers has and that holds the model
exactly: what it came from, or Llama, Mistral, Qwen2, Qwen3; SmolLM3 where
layers are without positions. Nothing in the folder needs code of ours.

  drope export runs/drope --out drope-hf
  drope export runs/drope --out drope-hf --logit-scale 1.2
  drope export runs/drope --out drope-sakana --format sakana
"""

import argparse

import numpy as np

from drope_jax import trees
from drope_jax.checkpoint import store
from drope_jax.checkpoint.formats import (
  families,
  hf_architecture,
  hf_export,
  sakana,
)
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.cli import terminal
from drope_jax.data import paths
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope

FORMATS = ("auto", "hf", "sakana")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument("--out", required=True, help="new folder")
  parser.add_argument(
    "--format",
    default="auto",
    choices=FORMATS,
    help="auto and hf: a stock architecture; sakana: the layout of the DroPE "
    "paper's repository, for norms over all heads (default: auto)",
  )
  parser.add_argument(
    "--architecture",
    choices=hf_architecture.STOCK,
    help="the stock architecture that it must be (default: the plainest that "
    "holds it)",
  )
  parser.add_argument(
    "--logit-scale",
    type=float,
    metavar="S",
    help="the softmax scale of the length to be read, instead of the "
    "checkpoint's, multiplied into q's weights (default: none)",
  )


def run(args: argparse.Namespace) -> None:
  """Writes the folder and says what it is."""
  out = paths.local(args.out, "An export's folder")
  hf_export.require_new(out)
  checkpoint = store.locate(paths.resolve(args.checkpoint))
  manifest, shapes = store.describe(checkpoint)
  dtypes = {
    path: np.dtype(leaf.dtype) for path, leaf in trees.flatten(shapes).items()
  }
  scale = args.logit_scale
  if scale is not None and not scale > 0:
    raise ValueError(
      "--logit-scale must be above 0, or every key weighs alike, got "
      f"{scale}. Raise it, or leave it out."
    )
  if args.format == "sakana":
    target, note = _sakana(args, manifest, dtypes)
  else:
    target, note = _stock(args, manifest, dtypes)
  hf_export.write_folder(checkpoint, out, target)
  terminal.say(f"{out}: {target.family.architecture}{note}")


def _stock(
  args: argparse.Namespace, manifest: Manifest, dtypes: dict[str, np.dtype]
) -> tuple[hf_export.Target, str]:
  config, scale = manifest.model, args.logit_scale
  if scale is None and config.logit_scale != 1:
    raise ValueError(
      "A stock architecture has no field for a logit scale, got "
      f"{config.logit_scale:g}. Fold it into q's weights with --logit-scale "
      f"{config.logit_scale:g}, or use --format sakana, which has one."
    )
  name = hf_architecture.choose(
    config, _came_from(manifest), required=args.architecture
  )
  family = families.FAMILIES[name]
  constants = {}
  if families.has_o_bias(family, config):
    bias = dtypes["layers/attention/q/bias"]
    constants = hf_export.zero_output_biases(config, bias)
  target = hf_export.Target(
    family,
    hf_architecture.config_json(config, name),
    1.0 if scale is None else scale,
    constants,
  )
  note = "" if scale is None else f", logit scale {scale:g} in q's weights"
  return target, note + _for_llama_cpp(config, name)


def _for_llama_cpp(config: ModelConfig, model_type: str) -> str:
  """Returns what to know before llama.cpp converts the folder.

  It reads the rule that turns nothing for Llama and Mistral alone, and takes
  SmolLM3's positions from every fourth layer, whatever the folder says.
  """
  schemes = hf_architecture.Layers.of(config).schemes
  dropped = [scheme == Nope() for scheme in schemes]
  fourth = [(n + 1) % 4 == 0 for n in range(config.num_layers)]
  runs = {"llama", "mistral"} | ({"smollm3"} if dropped == fourth else set())
  if model_type in runs or not any(dropped):
    return ""
  if hf_architecture.misfit(config, "llama", neutral=True) is None:
    return "; llama.cpp needs --architecture llama"
  return "; llama.cpp would run another model: see docs/convert.md"


def _sakana(
  args: argparse.Namespace, manifest: Manifest, dtypes: dict[str, np.dtype]
) -> tuple[hf_export.Target, str]:
  if args.logit_scale is not None or args.architecture is not None:
    raise ValueError(
      "--format sakana has one architecture and a field for the softmax scale, "
      "got --architecture or --logit-scale. Leave them out; "
      "`drope surgery --logit-scale` sets the checkpoint's."
    )
  config = manifest.model
  name = sakana.choose(config)
  target = hf_export.Target(
    families.FAMILIES[name],
    sakana.config_json(config),
    constants=sakana.unused_gains(config, dtypes["final_norm/gain"]),
  )
  reason = "the layout of the paper's repository, which runs with its code"
  if config.qk_norm != "none":
    reason += ": no stock architecture has a QK norm over all heads jointly"
  return target, f", {reason}"


def _came_from(manifest: Manifest) -> list[str]:
  """Returns the model types that the lineage names, latest first."""
  architectures = [
    entry.arguments.get("source", {}).get("architecture")
    for entry in reversed(manifest.lineage)
    if entry.operation == "convert"
  ]
  return [
    name
    for architecture in architectures
    for name, family in families.FAMILIES.items()
    if family.architecture == architecture
  ]
