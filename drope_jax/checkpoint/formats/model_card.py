"""README.md of an export: what the model is, and what a client must know."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from drope_jax.checkpoint.manifest import Manifest
from drope_jax.positional import Nope, PartialRope
from drope_jax.positional import pattern as patterns


@dataclasses.dataclass(frozen=True)
class Figures:
  """What results.json holds of one checkpoint.

  Attributes:
    rows: its rows, as `evals.interface.Result` writes them.
    slope: c of the softmax scale 1 + c ln s that was fitted for it by the
      method "model"; None: none was.
  """

  rows: Sequence[Mapping[str, Any]] = ()
  slope: float | None = None

  @property
  def longest_tokens(self) -> int | None:
    """The longest text that it was evaluated on; None where on none."""
    lengths = [row["factor"] * row["context_tokens"] for row in self.rows]
    return round(max(lengths)) if lengths else None


def figures(
  results: Mapping[str, Any], manifest: Manifest, where: pathlib.Path
) -> Figures:
  """Returns the figures of the checkpoint that has `manifest`.

  They are of its weights, whether or not a slope was saved since.

  Args:
    results: results.json, as `analysis.runs.load` has checked it.
    manifest: the checkpoint's.
    where: the file, for the error.

  Raises:
    ValueError: none of its models is that checkpoint.
  """
  models = results.get("models", {})
  names = [
    name
    for name, of in models.items()
    if Manifest.from_json(of["manifest"]).unfitted == manifest.unfitted
  ]
  if not names:
    raise ValueError(
      "Results of the checkpoint that is exported are needed, got those of "
      f"{', '.join(models) or 'none'} in {where}. Evaluate this one, or leave "
      "the results out."
    )
  name = names[0]
  # Of the positions that are exported, where other methods have others.
  fit = results.get("fits", {}).get(name, {}).get("model")
  slope = fit["c"] if fit and fit["factor"] != 1 else None
  rows = [row for row in results["rows"] if row["model"] == name]
  return Figures(rows, slope)


@dataclasses.dataclass(frozen=True)
class Card:
  """What README.md tells.

  Attributes:
    name: of the folder.
    architecture: the class that reads it, of transformers or the paper's.
    manifest: the checkpoint's.
    parameters: how many, and their dtype, in words.
    context_tokens: config.json's.
    context_reason: why it is that, in words.
    folded_scale: by what q's weights were multiplied; None: by nothing.
    figures: what it was evaluated to.
    is_stock: whether transformers alone reads it.
  """

  name: str
  architecture: str
  manifest: Manifest
  parameters: str
  context_tokens: int
  context_reason: str
  folded_scale: float | None
  figures: Figures
  is_stock: bool

  @property
  def slope(self) -> float | None:
    """The checkpoint's own c of 1 + c ln s, else the one that was fitted."""
    own = self.manifest.model.logit_scale_slope
    return self.figures.slope if own is None else own

  def text(self) -> str:
    """Returns the file."""
    parts = [
      _FRONT,
      f"# {self.name}\n",
      f"{self._summary()}\n",
      "## Context and softmax scale\n",
      *self._scale(),
      *self._figures(),
      "## Loading\n",
      self._loading(),
      "## Lineage\n",
      *_table(
        ("operation", "tokens trained on", "steps", "time"), self._lineage()
      ),
      "`drope_manifest.json` has all of it, and a hash of every other file but "
      "this one.\n",
      "## License\n",
      f"The license is not recorded. {self._source()}\n",
    ]
    return "\n".join(parts)

  def _summary(self) -> str:
    config = self.manifest.model
    schemes = patterns.layer_schemes(config.positional, config.num_layers)
    bare = sum(scheme == Nope() for scheme in schemes)
    if bare == len(schemes):
      positions = "no positional embeddings (DroPE, arXiv:2512.12167)"
    elif bare:
      positions = f"no positional embeddings in {bare} of {len(schemes)} layers"
    else:
      positions = "positional embeddings in every layer"
    kept = sorted({s.pairs for s in schemes if isinstance(s, PartialRope)})
    if kept:
      positions += (
        f", rotary on {' or '.join(map(str, kept))} of {config.head_dim // 2} "
        "channel pairs, the fastest"
      )
    return (
      f"A causal language model with {positions}: `{self.architecture}`, "
      f"{self.parameters}. Written by `drope export`."
    )

  def _scale(self) -> Iterator[str]:
    trained = self.manifest.model.context_tokens
    yield (
      f"Trained at {trained:,} tokens; `max_position_embeddings` is "
      f"{self.context_tokens:,}, {self.context_reason}.\n"
    )
    scale, slope = self.folded_scale, self.slope
    if scale is not None and self.is_stock:
      yield (
        f"Attention logits are multiplied by {scale:g}, by way of q's weights: "
        "every client applies it, at every length.\n"
      )
    elif not self.is_stock:
      yield "The softmax scale is config.json's `softmax_scale`.\n"
    elif self.context_tokens > trained and slope is None:
      yield (
        "Beyond the trained context, attention logits times 1 + c ln(length / "
        f"{trained:,}) may do better. No c was fitted: `drope evaluate "
        "--save-scale` does so.\n"
      )
    elif self.context_tokens > trained and slope:
      yield (
        "Beyond the trained context, attention logits times 1 + c ln(length / "
        f"{trained:,}) do better, with c fitted on held-out text: here "
        f"{slope:.3g}. No stock client applies it. To have it in the weights "
        "for one length, export the checkpoint again with `drope export "
        "--context`.\n"
      )

  def _figures(self) -> Iterator[str]:
    if not self.figures.rows:
      return
    yield "## Figures\n"
    rows = sorted(
      self.figures.rows,
      key=lambda row: (row["task"], row["metric"], row["factor"]),
    )
    yield from _table(
      (
        *("task", "metric", "positions", "length / trained"),
        *("softmax scale", "value", "95%"),
      ),
      [
        (
          row["task"],
          row["metric"],
          row["method"],
          f"{row['factor']:g}",
          f"{row['logit_scale']:.3g}",
          f"{row['value']:.3f}",
          "" if row["low"] is None else f"{row['low']:.3f}..{row['high']:.3f}",
        )
        for row in rows
      ],
    )

  def _loading(self) -> str:
    if not self.is_stock:
      return (
        "With the code of the paper's repository, github.com/SakanaAI/DroPE.\n"
      )
    if self.manifest.tokenizer is None:
      return _LOADING.format(name=self.name, tokenizer="")
    line = (
      f'tokenizer = transformers.AutoTokenizer.from_pretrained("{self.name}")'
    )
    return _LOADING.format(name=self.name, tokenizer=f"{line}\n") + (
      "\n`generate` ends at any id of `eos_token_id` in generation_config.json."
      " To transformers, text that spells a special token is that token.\n"
    )

  def _lineage(self) -> Iterator[Sequence[str]]:
    for entry in self.manifest.lineage:
      yield (
        entry.operation,
        f"{entry.tokens:,}",
        f"{entry.steps:,}",
        entry.time[:10],
      )

  def _source(self) -> str:
    """Returns where to look for the license; of a path, the last name alone."""
    sources = [
      pathlib.PurePath(entry.parent).name
      for entry in self.manifest.lineage
      if entry.operation == "convert" and entry.parent
    ]
    if not sources:
      return "The weights were trained from random ones."
    return (
      f"The weights were made from `{sources[0]}`, whose license holds for "
      "them too: look it up before you pass them on."
    )


_FRONT = """---
library_name: transformers
pipeline_tag: text-generation
license: unknown
tags:
- drope
---
"""

_LOADING = """```python
import transformers

model = transformers.AutoModelForCausalLM.from_pretrained("{name}")
{tokenizer}```
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
  lines = [head, ["---"] * len(head), *rows]
  cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
  yield "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"
