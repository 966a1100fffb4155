"""`drope analyse MODEL bias`."""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from drope_jax.analysis.studies import bias, bias_plots, spread
from drope_jax.axes import Array
from drope_jax.checkpoint import store
from drope_jax.cli import console as consoles
from drope_jax.cli import output
from drope_jax.cli.analyses import subject
from drope_jax.data import paths

_MOST_TOKENS = 512
_POSITIONS = "model,nope"
_GRADIENTS = ("query_gradient_H", "key_gradient_H")


def run(args: argparse.Namespace) -> None:
  """Measures the bias, and writes it.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  if args.seeds < 1:
    raise ValueError(f"--seeds must be at least 1, got {args.seeds}. Raise it.")
  given = None if args.weights is None else _weights(args.weights)
  out = output.Output.open(args.out)
  with consoles.Console(stderr=True).status("measuring the bias"):
    (_along_training if args.every_save else _by_positions)(args, given, out)


def _by_positions(args, given: Array | None, out: output.Output) -> None:
  measured: dict[str, list[list[bias.LayerBias]]] = {}
  spreads: dict[str, list[spread.Spread]] = {}
  for seed in range(args.seeds):
    model = subject.load(args, seed)
    context = model.config.context_tokens
    tokens_BS = _excerpts(args, model, seed, context)
    for name, positional in subject.positions(
      model.config, args.positions or _POSITIONS
    ).items():
      config = dataclasses.replace(model.config, positional=positional)
      found = bias.measure(config, model.params, tokens_BS, given)
      measured.setdefault(name, []).append(found)
      if seed == 0:
        S = tokens_BS.shape[1]
        lengths = sorted({max(S // 4, 2), S})
        spreads[name] = spread.measure(
          config, model.params, tokens_BS[0], lengths=lengths
        )
  out.json("bias", model=model.about, bias=measured, spread=spreads)
  out.figure("gradients", bias_plots.by_layer(measured, _GRADIENTS))
  out.figure("values", bias_plots.by_layer(measured, ("value_H",)))
  out.figure("spread", bias_plots.spread(spreads))
  _show(measured, spreads)


def _along_training(args, given: Array | None, out: output.Output) -> None:
  run = paths.resolve(args.model)
  steps = [] if subject.is_config(args) else store.finished_steps(run)
  given_too = args.overrides or args.seeds > 1 or args.positions is not None
  if len(steps) < 2 or given_too:
    raise ValueError(
      "--every-save needs a run with two saved steps or more, without --set, "
      f"--seeds and --positions, got {args.model} with {len(steps)}. Train "
      "with Recipe.keep_every_steps."
    )
  # A gradient falls with the length, so all saves read the same text.
  context = min(
    store.describe(run / str(step))[0].model.context_tokens for step in steps
  )
  points = []
  for step in steps:
    model = subject.of_checkpoint(run / str(step), args.begin_with_bos)
    tokens_BS = _excerpts(args, model, 0, context)
    found = bias.measure(model.config, model.params, tokens_BS, given)
    points.append((model.trained_tokens or 0, found))
  out.json("bias", model=model.about, along_training=points)
  fields = (*_GRADIENTS, "value_H")
  out.figure("along_training", bias_plots.along_training(points, fields))
  ends = {f"{tokens:,} tokens": [found] for tokens, found in points}
  _show(ends, {})


def _excerpts(args, model: subject.Subject, seed: int, context: int) -> Array:
  tokens = min(context, _MOST_TOKENS) if args.tokens is None else args.tokens
  if not 2 <= tokens <= context:
    raise ValueError(
      f"--tokens must lie in 2..{context}, the trained context, got {tokens}. "
      "Change it."
    )
  return subject.excerpts(model, args.text, args.sequences, tokens, seed)


def _weights(path: str) -> Array:
  try:
    with open(path, "rb") as file:
      return np.lib.format.read_array(file, allow_pickle=False)
  except ValueError as error:
    raise ValueError(
      f"--weights must be an array that numpy.save wrote, got {path} "
      f"({error}). Write it again."
    ) from error


def _show(
  measured: bias_plots.Measured, spreads: Mapping[str, Sequence[spread.Spread]]
) -> None:
  rows = []
  for name, seeds in measured.items():
    every = [row for of_seed in seeds for row in of_seed]
    for pattern in dict.fromkeys(row.pattern for row in every):
      own = [row for row in every if row.pattern == pattern]
      fields = ("value_H", *_GRADIENTS)
      rows.append((f"{name}, {pattern}", *(_ends(own, x) for x in fields)))
  output.show(
    "means over heads, first layer → last",
    ("positions, head", "bias", "gradient to W_Q", "to W_K"),
    rows,
  )
  if spreads:
    output.show(
      "the largest of any layer / spread of embeddings, where that is "
      f"{min(spread.SHRINKS):.2g} of the model's",
      ("positions", "spread", "bias", "gradient"),
      [
        (
          f"{name}, {point.num_tokens} tokens",
          *(f"{x:.3g}" for x in point.constants),
        )
        for name, points in spreads.items()
        for point in points
        if point.shrink == min(spread.SHRINKS)
      ],
    )


def _ends(rows: Sequence[bias.LayerBias], field: str) -> str:
  """Returns a field's mean over heads in the first layer and in the last."""
  means = [
    np.mean([getattr(row, field) for row in rows if row.layer == layer])
    for layer in (0, max(row.layer for row in rows))
  ]
  return " → ".join(f"{mean:.2g}" for mean in means)
