"""Writes a checkpoint as a Hugging Face folder, exactly or not at all."""

from collections.abc import Iterator, Sequence
import dataclasses
import math
import pathlib

import numpy as np

from drope_jax import trees
from drope_jax.checkpoint import store
from drope_jax.checkpoint.files import Path
from drope_jax.checkpoint.formats import (
  families,
  hf_architecture,
  hf_config,
  hf_export,
  hf_layers,
  hf_tokenizer,
  model_card,
)
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.evals import logit_scale
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, PartialRope, partial

FORMATS = ("hf", "sakana")

TIMES = 8
"""How many times its trained context a model without positions may read.

`drope evaluate` goes as far by default.
"""


@dataclasses.dataclass(frozen=True)
class Options:
  """The form of an export.

  Attributes:
    format: "hf": a stock architecture; "sakana": the layout of the DroPE
      paper's repository.
    architecture: the stock architecture to write, one of
      `hf_architecture.STOCK`; None: the plainest that can hold the model.
    context_tokens: how many tokens a client may read, for a model without
      positions; None: the longest of `figures`, or else `TIMES` times the
      trained context.
    logit_scale: multiplies q's weights, in place of the checkpoint's own scale;
      None: that of `context_tokens` by the slope of the checkpoint, or else of
      `figures`; without either, nothing does.
    figures: for README.md.
  """

  format: str = "hf"
  architecture: str | None = None
  context_tokens: int | None = None
  logit_scale: float | None = None
  figures: model_card.Figures = model_card.Figures()

  def __post_init__(self):
    if self.format not in FORMATS:
      raise ValueError(
        f"An export's format must be one of {', '.join(FORMATS)}, got "
        f"{self.format!r}. Name one of these."
      )
    if self.architecture not in (None, *hf_architecture.STOCK):
      raise ValueError(
        "`architecture` must be one of "
        f"{', '.join(hf_architecture.STOCK)}, got {self.architecture!r}. Name "
        "one of these, or leave it out."
      )
    if self.logit_scale is not None and not 0 < self.logit_scale < math.inf:
      raise ValueError(
        "`logit_scale` must be a number above 0, or every key weighs alike, "
        f"got {self.logit_scale}. Change it, or leave it out."
      )


@dataclasses.dataclass(frozen=True)
class Exported:
  """What was written.

  Attributes:
    architecture: the class that reads the folder, with notes for its users.
    differences: how a client's use of the folder differs from ours, each in a
      sentence.
  """

  architecture: str
  differences: tuple[str, ...]


def export(
  checkpoint: Path, out: pathlib.Path, options: Options = Options()
) -> Exported:
  """Writes a checkpoint to the new folder `out`.

  Args:
    checkpoint: as `store.locate` takes it.
    out: must not exist.
    options: the form to write.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: `out` exists, no architecture holds the model exactly, or the
      checkpoint is damaged.
  """
  hf_export.require_new(out)
  checkpoint = store.locate(checkpoint)
  manifest, shapes = store.describe(checkpoint)
  context_tokens, reason = _context(options, manifest.model)
  # For config.json. The manifest in the folder keeps the trained context.
  config = dataclasses.replace(manifest.model, context_tokens=context_tokens)
  scale = _scale(options, manifest.model)
  if options.format == "sakana":
    target, note = _sakana(options, config, scale)
  else:
    target, note = _stock(options, config, scale, _preferred(manifest))
  parameters = trees.flatten(shapes).values()
  count = trees.count(parameters)
  names = sorted({np.dtype(leaf.dtype).name for leaf in parameters})
  card = model_card.Card(
    name=out.name,
    architecture=target.family.architecture,
    manifest=manifest,
    parameters=f"{count:,} parameters in {' and '.join(names)}",
    context_tokens=context_tokens,
    context_reason=reason,
    folded_scale=scale,
    figures=options.figures,
    is_stock=options.format != "sakana",
  )
  hf_export.write_folder(checkpoint, out, target, card.text())
  return Exported(
    f"{target.family.architecture}{note}", tuple(_differences(out, card))
  )


def _context(options: Options, config: ModelConfig) -> tuple[int, str]:
  """Returns config.json's context, and why it is that."""
  trained, longest = config.context_tokens, options.figures.longest_tokens
  context_tokens = options.context_tokens
  if _is_bound(config):
    if context_tokens is not None:
      raise ValueError(
        "`context_tokens` needs a model without positions that are new beyond "
        f"the trained {trained} tokens, got {context_tokens} for another "
        "model. Leave it out."
      )
    return trained, "as its positions were trained"
  if context_tokens is None:
    if longest is None:
      reason = f"{TIMES} times the trained length, as no results were given"
      return TIMES * trained, reason
    if longest <= trained:
      return trained, "its trained length, as it was evaluated at no longer one"
    return longest, "the longest that it was evaluated at"
  if context_tokens < 1:
    raise ValueError(
      f"`context_tokens` must be 1 or more, got {context_tokens}. Raise it."
    )
  beyond = longest is not None and context_tokens > longest
  return context_tokens, "as asked for" + (
    f", beyond the {longest:,} that it was evaluated at" if beyond else ""
  )


def _scale(options: Options, config: ModelConfig) -> float | None:
  """Returns the softmax scale to export in place of the model's; None: none."""
  slope = config.logit_scale_slope
  if slope is None:
    slope = options.figures.slope
  if options.logit_scale is not None or not slope:
    return options.logit_scale
  factor = (options.context_tokens or 0) / config.context_tokens
  if factor <= 1:
    return None
  return config.logit_scale * logit_scale.scale_at(slope, factor)


def _is_bound(config: ModelConfig) -> bool:
  """Returns whether any layer has positions that are new beyond the context.

  A layer has none if it has no positions, if it rotates only pairs that
  complete a rotation in the trained context, or if its window is no longer than
  that context.
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
  if card.folded_scale is None and card.slope and card.context_tokens > trained:
    scale = logit_scale.scale_at(card.slope, card.context_tokens / trained)
    yield (
      "No client applies the softmax scale that was fitted"
      + (
        f": `context_tokens={card.context_tokens}` would put that of this "
        f"length, {scale:.3g}, into the weights."
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
  options: Options,
  config: ModelConfig,
  scale: float | None,
  preferred: Sequence[str],
) -> tuple[hf_export.Target, str]:
  if scale is not None:
    config = dataclasses.replace(config, logit_scale=1.0)
  name = hf_architecture.choose(
    config, preferred, required=options.architecture
  )
  family = families.FAMILIES[name]
  if config.logit_scale != 1 and not family.softmax_scale.has_field:
    raise ValueError(
      f"{family.architecture} has no field for a logit scale, got "
      f"{config.logit_scale:g}. Fold it into q's weights with "
      f"`logit_scale={config.logit_scale:g}`, or use "
      '`format="sakana"`, which has one.'
    )
  target = hf_export.Target(
    config,
    family,
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
  in_part &= model_type != "gpt_neox"  # It has a field for that.
  fourth = [(n + 1) % 4 == 0 for n in range(config.num_layers)]
  runs = {"llama", "mistral", "gpt2"}
  if dropped == fourth and not in_part:
    runs.add("smollm3")
  if model_type in runs or not (any(dropped) or in_part):
    return ""
  for name in ("llama", "mistral"):
    if hf_architecture.misfit(config, name) is None:
      return f'; llama.cpp needs `architecture="{name}"`'
  return "; llama.cpp would run another model: see docs/convert.md"


def _sakana(
  options: Options, config: ModelConfig, scale: float | None
) -> tuple[hf_export.Target, str]:
  if options.logit_scale is not None or options.architecture is not None:
    raise ValueError(
      '`format="sakana"` has one architecture and a field for the softmax '
      "scale, got `architecture` or `logit_scale`. Leave them out; "
      "`drope surgery --logit-scale` sets the checkpoint's."
    )
  if scale is not None:
    config = dataclasses.replace(config, logit_scale=scale)
  name = hf_architecture.choose_papers(config)
  target = hf_export.Target(
    config, families.FAMILIES[name], hf_config.to_dict(config, name)
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
