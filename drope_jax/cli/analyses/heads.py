"""`drope analyse MODEL heads`."""

import argparse
from collections.abc import Sequence
import dataclasses

import numpy as np

from drope_jax.analysis import report
from drope_jax.analysis.sections import around_needle
from drope_jax.analysis.studies import heads, heads_plots, needle
from drope_jax.cli import console as consoles
from drope_jax.cli import output, terminal
from drope_jax.cli.analyses import subject
from drope_jax.data import paths
from drope_jax.positional import Rope

_PROFILES = 2
"""Lengths beyond the context at which weights by offset are shown."""


def run(args: argparse.Namespace) -> None:
  """Scores the heads, and shows the best under each scaling.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  if args.heads < 1:
    raise ValueError(f"--heads must be at least 1, got {args.heads}. Raise it.")
  factors = subject.factors(args.factors)
  model = subject.load(args)
  dropped = _dropped(args, model)
  out = output.Output.open(args.out)
  with consoles.Console(stderr=True).status("") as status:
    look = _Look(args, model, status.update)
    before = look.text(model, model.config.positional, 1.0)
    scored = before.heads(look.needle_mass())
    before_needles = heads.layers_before_needles(scored)
    positional, semantic = heads.best(scored, args.heads)
    shown = [*semantic, *positional]
    profiles = look.profiles([f for f in factors if f > 1][:_PROFILES], shown)
    around = [row for f in factors for row in look.around(f, shown)]
    after = look.text(dropped, dropped.config.positional, 1.0)
  activations = {"before": before.activations(), "after": after.activations()}
  scores = [dataclasses.asdict(head) | {"role": head.role} for head in scored]
  out.json(
    "heads",
    model=model.about,
    heads=scores,
    layers_before_needles=before_needles,
    activations=activations,
    offsets=profiles,
    needle=around,
  )
  out.figure("scores", heads_plots.scores(scored))
  if profiles:
    of_best = _of(profiles, positional[0])
    out.figure("offsets", heads_plots.offsets(of_best))
  if semantic:
    of_best = _of(around, semantic[0])
    out.figure("needle", heads_plots.around(of_best))
  out.figure("first_token", heads_plots.first_token(**activations))
  title = f"Attention around the needle: {args.model}"
  rows = [dataclasses.asdict(row) for row in around]
  blocks = around_needle.blocks({"heads": scores, "needle": rows})
  page = report.render([report.Section(title, blocks)], title)
  out.text("heads.html", page)
  _show(scored, shown)
  if isinstance(model.config.positional, Rope):
    _advise(args.model, before_needles, scored[-1].layer)


class _Look:
  """The model, and what it reads at each length."""

  def __init__(self, args, model: subject.Subject, say):
    self._args, self._model, self._say = args, model, say
    self._documents = subject.documents_of(args.text)

  def text(self, model, positional, factor: float) -> heads.Text:
    """Returns what attention does on text of a length."""
    self._say(f"reading text at {factor:g}×")
    tokens = round(factor * self._model.config.context_tokens)
    tokens_BS = subject.excerpts(
      self._model, self._args.text, self._args.sequences, tokens, seed=0
    )
    return heads.Text(model.config, positional, model.params, tokens_BS)

  def needle_mass(self) -> np.ndarray:
    """Returns each head's mass on the needle at the context, mass_NH."""
    prompts = self._prompts(1.0)
    rows = self._rows(self._model.config.positional, prompts)
    return np.mean([*map(needle.mass, rows, prompts)], axis=0)

  def profiles(
    self, factors: Sequence[float], shown: Sequence[tuple[int, int]]
  ) -> list[heads.Profile]:
    """Returns weights by offset at each length, under each scaling."""
    return [
      profile
      for factor in factors
      for method, positional in self._methods(factor).items()
      for profile in self.text(self._model, positional, factor).profiles(
        shown, method, factor
      )
    ]

  def around(
    self, factor: float, shown: Sequence[tuple[int, int]]
  ) -> list[needle.Around]:
    """Returns weights around the needle at a length, under each scaling."""
    self._say(f"reading needles at {factor:g}×")
    prompts = self._prompts(factor)
    return [
      row
      for method, positional in self._methods(factor).items()
      for row in needle.around(
        self._rows(positional, prompts), prompts, shown, method, factor
      )
    ]

  def _methods(self, factor: float):
    return heads.methods(self._model.config, factor)

  def _rows(self, positional, prompts):
    model = self._model
    return needle.rows(model.config, positional, model.params, prompts)

  def _prompts(self, factor: float) -> list[needle.Prompt]:
    model = self._model
    samples = subject.prompts(
      model,
      self._documents,
      self._args.prompts,
      round(factor * model.config.context_tokens),
    )
    encode = model.tokenizer.encode
    return [needle.prompt(s, subject.NEEDLES, encode) for s in samples]


def _dropped(args, model: subject.Subject) -> subject.Subject:
  """Returns the model after its drop."""
  if args.after is None:
    return subject.without_positions(model)
  after = subject.of_checkpoint(paths.resolve(args.after), args.begin_with_bos)
  if (
    after.tokenizer.fingerprint != model.tokenizer.fingerprint
    or after.config.context_tokens != model.config.context_tokens
  ):
    raise ValueError(
      f"--after must be the model after its drop, got {args.after}, which has "
      "another tokenizer or context. Name that model."
    )
  return after


def _of(rows, head: tuple[int, int]):
  return [row for row in rows if (row.layer, row.head) == head]


def _show(
  scored: Sequence[heads.Head], shown: Sequence[tuple[int, int]]
) -> None:
  by_place = {(head.layer, head.head): head for head in scored}
  output.show(
    "heads with the most attention to the needle, and with the largest bias",
    ("head", *(f"bias {d}" for d in heads.OFFSETS), "needle", "first", "role"),
    [
      (
        f"layer {layer}, head {head}",
        *(f"{x:.3f}" for x in found.bias),
        f"{found.needle:.3f}",
        f"{found.first_token:.3f}",
        found.role,
      )
      for layer, head in shown
      for found in [by_place[layer, head]]
    ],
  )


def _advise(model: str, before: int, last: int) -> None:
  """Says how a drop leaves local order to the layers before needle heads."""
  if before:
    windows = "".join(f" --window {layer}=32" for layer in range(before))
    terminal.say(
      f"The first head that finds the needle is in layer {before}. A drop that "
      "leaves RoPE within a window to the layers before it: drope surgery "
      f"{model} --drop {before}-{last}{windows} --out NEW"
    )
