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
  drope export runs/drope --out drope-hf --logit-scale 1.2
  drope export runs/drope --out drope-sakana --format sakana
"""

import argparse
from collections.abc import Iterator, Sequence
import dataclasses
import math
import pathlib

import numpy as np

from drope_jax import trees
from drope_jax.analysis import runs
from drope_jax.checkpoint import store
from drope_jax.checkpoint.formats import (
  families,
  hf_architecture,
  hf_config,
  hf_export,
  hf_layers,
  hf_tokenizer,
)
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.cli import model_card, terminal
from drope_jax.data import paths
from drope_jax.evals import logit_scale
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, PartialRope, partial

FORMATS = ("auto", "hf", "sakana")

_TIMES = 8
"""As far as `drope evaluate` goes by default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument("--out", required=True, help="new folder")
  parser.add_argument(
    "--format",
    default="auto",
    choices=FORMATS,
    help="auto and hf: a stock architecture; sakana: the layout of the DroPE "
    "paper's repository, which needs its code (default: auto)",
  )
  parser.add_argument(
    "--architecture",
    choices=hf_architecture.STOCK,
    help="the stock architecture to write (default: the plainest one that can "
    "hold the model)",
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
    help="how many tokens a client may read, for a model without positions "
    f"(default: the longest of --results, or {_TIMES} times the trained "
    "context)",
  )
  parser.add_argument(
    "--logit-scale",
    type=float,
    metavar="S",
    help="multiply q's weights by this softmax scale, in place of the "
    "checkpoint's own scale (default: none)",
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
  figures = _figures(args, manifest)
  context_tokens, reason = _context(args, manifest.model, figures)
  # For config.json. The manifest in the folder keeps the trained context.
  config = dataclasses.replace(manifest.model, context_tokens=context_tokens)
  if args.format == "sakana":
    target, note = _sakana(args, config)
  else:
    target, note = _stock(args, config, _preferred(manifest))
  count = sum(math.prod(leaf.shape) for leaf in trees.flatten(shapes).values())
  names = sorted({dtype.name for dtype in dtypes.values()})
  card = model_card.Card(
    name=out.name,
    architecture=target.family.architecture,
    manifest=manifest,
    parameters=f"{count:,} parameters in {' and '.join(names)}",
    context_tokens=context_tokens,
    context_reason=reason,
    folded_scale=scale,
    figures=figures,
    is_stock=args.format != "sakana",
  )
  hf_export.write_folder(checkpoint, out, target, card.text())
  terminal.say(f"{out}: {target.family.architecture}{note}")
  for line in _differences(out, card):
    terminal.say(line)


def _figures(
  args: argparse.Namespace, manifest: Manifest
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


def _context(
  args: argparse.Namespace, config: ModelConfig, figures: model_card.Figures
) -> tuple[int, str]:
  """Returns config.json's context, and why it is that."""
  trained, longest = config.context_tokens, figures.longest_tokens
  if _is_bound(config):
    if args.context is not None:
      raise ValueError(
        "--context is for models without positions that are new beyond the "
        f"trained {trained} tokens, got {args.context} for another model. "
        "Leave it out."
      )
    return trained, "as its positions were trained"
  if args.context is None:
    if longest is not None:
      return max(longest, trained), "the longest that it was evaluated at"
    reason = f"{_TIMES} times the trained length, as no results were given"
    return _TIMES * trained, reason
  if args.context < 1:
    raise ValueError(
      f"--context must be 1 or more tokens, got {args.context}. Raise it."
    )
  beyond = longest is not None and args.context > longest
  return args.context, "as asked for" + (
    f", beyond the {longest:,} that it was evaluated at" if beyond else ""
  )


def _is_bound(config: ModelConfig) -> bool:
  """Returns whether any layer has positions it did not meet in training.

  A layer has none beyond the trained context if it has no positions, if it
  rotates only pairs that complete a rotation in that context, or if its window
  is no longer than the context.
  """
  layers = hf_layers.Layers.of(config)
  for scheme, window in zip(layers.schemes, layers.windows, strict=True):
    if scheme == Nope() or (window or math.inf) <= config.context_tokens:
      continue
    if not isinstance(scheme, PartialRope) or (
      scheme.pairs
      > partial.complete_pairs(
        scheme.rope, config.head_dim, config.context_tokens
      )
    ):
      return True
  return False


def _differences(out: pathlib.Path, card: model_card.Card) -> Iterator[str]:
  """Yields how a client's use of the folder differs from ours."""
  manifest = card.manifest
  trained = manifest.model.context_tokens
  if card.context_tokens != trained:
    yield (
      f"Clients may read {card.context_tokens:,} tokens, {card.context_reason};"
      f" it was trained at {trained:,}."
    )
  if card.folded_scale is None and card.slope:
    scale = logit_scale.scale_at(card.slope, card.context_tokens / trained)
    yield (
      "No client applies the softmax scale that was fitted"
      + (
        f": --logit-scale {scale:.3g} would put that of "
        f"{card.context_tokens:,} tokens into the weights."
        if card.is_stock
        else "."
      )
    )
  if manifest.tokenizer and _is_foreign_qwen2(card):
    yield (
      "transformers 5 reads text with Qwen2's own tokenizer for this "
      "architecture, whatever the folder has: load it by "
      "PreTrainedTokenizerFast instead of AutoTokenizer."
    )
  last = manifest.lineage[-1] if manifest.lineage else None
  if (
    manifest.tokenizer is not None
    and last is not None
    and last.steps
    and hf_tokenizer.adds_bos(out)
  ):
    yield (
      "Clients put BOS before a text, as the tokenizer's source did; training "
      "here put none there. add_special_tokens=False leaves it out."
    )


def _stock(
  args: argparse.Namespace, config: ModelConfig, preferred: Sequence[str]
) -> tuple[hf_export.Target, str]:
  scale = args.logit_scale
  if scale is None and config.logit_scale != 1:
    raise ValueError(
      "A stock architecture has no field for a logit scale, got "
      f"{config.logit_scale:g}. Fold it into q's weights with --logit-scale "
      f"{config.logit_scale:g}, or use --format sakana, which has one."
    )
  name = hf_architecture.choose(config, preferred, required=args.architecture)
  target = hf_export.Target(
    families.FAMILIES[name],
    hf_config.to_dict(config, name),
    1.0 if scale is None else scale,
  )
  note = "" if scale is None else f", logit scale {scale:g} in q's weights"
  return target, note + _for_other_clients(config, name)


def _for_other_clients(config: ModelConfig, model_type: str) -> str:
  """Returns what a user of vLLM or llama.cpp must know of the folder.

  llama.cpp reads Llama 3's rule, which drops positions or pairs, for Llama and
  Mistral only. It drops SmolLM3's positions in every fourth layer, whatever the
  folder says.
  """
  if model_type in ("olmoe", "olmo2", "olmo3"):
    return "; vLLM and llama.cpp run it as docs/convert.md says"
  schemes = hf_layers.Layers.of(config).schemes
  dropped = [scheme == Nope() for scheme in schemes]
  in_part = any(isinstance(scheme, PartialRope) for scheme in schemes)
  fourth = [(n + 1) % 4 == 0 for n in range(config.num_layers)]
  runs = {"llama", "mistral"}
  if dropped == fourth and not in_part:
    runs.add("smollm3")
  if model_type in runs or not (any(dropped) or in_part):
    return ""
  for name in ("llama", "mistral"):
    if hf_architecture.misfit(config, name) is None:
      return f"; llama.cpp needs --architecture {name}"
  return "; llama.cpp would run another model: see docs/convert.md"


def _sakana(
  args: argparse.Namespace, config: ModelConfig
) -> tuple[hf_export.Target, str]:
  if args.logit_scale is not None or args.architecture is not None:
    raise ValueError(
      "--format sakana has one architecture and a field for the softmax scale, "
      "got --architecture or --logit-scale. Leave them out; "
      "`drope surgery --logit-scale` sets the checkpoint's."
    )
  name = hf_architecture.choose_papers(config)
  target = hf_export.Target(
    families.FAMILIES[name], hf_config.to_dict(config, name)
  )
  return target, ", the layout of the paper's repository: it needs its code"


def _is_foreign_qwen2(card: model_card.Card) -> bool:
  qwen2 = families.FAMILIES["qwen2"].architecture
  return card.architecture == qwen2 and "qwen2" not in _came_from(card.manifest)


def _preferred(manifest: Manifest) -> list[str]:
  """Returns the model types to prefer.

  Llama can hold biases too, with zeros for o's. For Qwen2, transformers 5 reads
  any tokenizer as Qwen2's own.
  """
  preferred = _came_from(manifest)
  return preferred if manifest.tokenizer is None else [*preferred, "llama"]


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
