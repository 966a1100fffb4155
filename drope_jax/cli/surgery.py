"""`drope surgery`: drops positions or adds QK norms, to a new checkpoint."""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import math
import os
import re

import jax.numpy as jnp
import rich.box
import rich.table

from drope_jax.analysis import damage as damages
from drope_jax.analysis import pair_damage
from drope_jax.axes import Array
from drope_jax.checkpoint import store
from drope_jax.checkpoint.formats import hf_architecture
from drope_jax.cli import console as consoles
from drope_jax.cli import export, flags, terminal, text_inputs
from drope_jax.data import paths, sources
from drope_jax.data import tokenizer as tokenizers
from drope_jax.evals import perplexity
from drope_jax.model.config import ModelConfig
from drope_jax.surgery import compose

# Of the report; matched gains are measured on as many others.
_EXCERPTS = 8
_EXCERPT_TOKENS = 1024


def run(args: argparse.Namespace) -> None:
  """Writes the operated checkpoint and says what changed.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  out = store.require_new(args.out)
  parent = store.locate(paths.resolve(args.checkpoint))
  manifest, shapes = store.describe(parent)
  surgery = compose.Surgery(
    drop=_layers(args.drop, manifest.model.num_layers),
    keep_rotations=args.keep_rotations,
    keep_pairs=args.keep_pairs,
    windows=tuple(args.window),
    theta=args.theta,
    scaling=args.scaling,
    scaling_factor=args.scaling_factor,
    qk_norm=args.qk_norm,
    qk_norm_scope=args.qk_norm_scope,
    qk_norm_init=args.qk_norm_init,
    logit_scale=args.logit_scale,
    logit_scale_slope=args.logit_scale_slope,
  )
  _require_text(args, surgery)
  # On shapes first: what does not fit is refused before any array is read.
  in_outline = dataclasses.replace(surgery, qk_norm_init="unit")
  compose.apply(in_outline, manifest.model, shapes)
  reported_BS = calibration_BS = None
  if args.text is not None:
    reported_BS, calibration_BS = _excerpts(
      args, surgery, parent, manifest.model.context_tokens
    )
  params, _ = store.load_model(parent)
  before = manifest.model, params
  after = compose.apply(surgery, *before, calibration_BS)
  damage = None
  if reported_BS is not None:
    with consoles.Console(stderr=True).status("") as status:
      status.update("measuring the damage")
      damage = damages.compare(
        before,
        after,
        reported_BS,
        by_pair=args.pair_damage,
        on_pair=lambda done, pairs: status.update(
          consoles.plain(f"measuring the damage: pair {done} of {pairs}")
        ),
      )
  config, params = after
  calibration = None
  if calibration_BS is not None and surgery.needs_tokens:
    calibration = {"text": args.text, "shape": calibration_BS.shape}
  arguments = {"surgery": surgery, "calibration": calibration}
  manifest = manifest.after(
    "surgery", arguments, os.fspath(parent), model=config
  )
  tokenizer = store.tokenizer_path(parent) if manifest.tokenizer else None
  store.save_model(out, params, manifest, tokenizer)
  if damage is not None and reported_BS is not None:
    (out / "damage.json").write_text(json.dumps(damage.to_json()) + "\n")
    _show(damage, reported_BS.shape, surgery.needs_tokens)
  _say_if_not_stock(config)
  advice = ""
  if surgery.changes_context:
    advice = " Recalibrate it before you judge it."
    advice += "" if damage else " --text would show the damage."
  terminal.say(f"{args.out}: {_summary(args)}.{advice}")


def damage_table(damage: damages.Damage) -> rich.table.Table:
  """Returns what a surgery did to each layer's attention."""
  even = damage.before.uniform_entropy
  title = (
    f"before → after; attention to all alike has an entropy of {even:.2f} nats"
  )
  return _table(title, damages.COLUMNS, damage.rows())


def pair_table(pairs: pair_damage.PairDamage) -> rich.table.Table:
  """Returns what each rotary pair of the dropped layers is worth."""
  title = (
    "pairs, fast to slow: rotations in the trained context, and the loss of "
    "each alone"
  )
  return _table(title, pair_damage.COLUMNS, pairs.rows())


def _table(
  title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> rich.table.Table:
  table = rich.table.Table(
    title=title, title_justify="left", box=rich.box.SIMPLE
  )
  for column in columns:
    table.add_column(column, justify="right")
  for row in rows:
    table.add_row(*row)
  return table


def _layers(text: str, num_layers: int) -> str | tuple[int, ...]:
  if text in ("all", "none"):
    return text
  layers: list[int] = []
  for part in text.split(","):
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
    first, last = (
      map(int, (found[1], found[2] or found[1])) if found else (1, 0)
    )
    if not first <= last < num_layers:
      raise ValueError(
        f"--drop takes all, none, or layers in 0..{num_layers - 1} such as "
        f"0-11,20, got {text!r}. Name layers that the model has."
      )
    layers.extend(range(first, last + 1))
  return tuple(layers)


def _require_text(args: argparse.Namespace, surgery: compose.Surgery) -> None:
  if args.text is None and surgery.needs_tokens:
    raise ValueError(
      "Matched gains are measured on text, got none. Name it with --text, or "
      "use --qk-norm-init unit."
    )
  if args.text is None and args.excerpt_tokens is not None:
    raise ValueError(
      "--excerpt-tokens is of the excerpts of --text, got "
      f"{args.excerpt_tokens} without a text. Give both or neither."
    )


def _excerpts(
  args: argparse.Namespace,
  surgery: compose.Surgery,
  parent: os.PathLike,
  context_tokens: int,
) -> tuple[Array, Array]:
  """Returns tokens_BS to report on, and others to match gains on, if any."""
  S = args.excerpt_tokens
  if S is None:
    S = min(_EXCERPT_TOKENS, context_tokens)
  if not 2 <= S <= context_tokens:
    raise ValueError(
      f"--excerpt-tokens must lie in 2..{context_tokens}, the model's context, "
      f"got {S}. Change it."
    )
  tokenizer = tokenizers.load(os.fspath(store.tokenizer_path(parent)))
  texts = sources.texts(text_inputs.expand(args.text))
  documents = map(tokenizer.encode, texts)
  count = (1 + surgery.needs_tokens) * _EXCERPTS
  tokens_BS = jnp.asarray(perplexity.excerpts(documents, S, count, seed=0))
  return tokens_BS[:_EXCERPTS], tokens_BS[_EXCERPTS:]


def _show(
  damage: damages.Damage, shape: tuple[int, int], matched: bool
) -> None:
  B, S = shape
  before, after = damage.before.loss, damage.after.loss
  others = f"; gains matched on {B} others" if matched else ""
  terminal.say(
    f"{B} excerpts of {S:,} tokens{others}\n"
    f"loss {before:.3f} → {after:.3f} nats a token, perplexity "
    f"{math.exp(before):,.1f} → {math.exp(after):,.1f}\n"
  )
  console = consoles.Console()
  console.print(damage_table(damage))
  if damage.pairs is not None:
    console.print(pair_table(damage.pairs))


def _say_if_not_stock(config: ModelConfig) -> None:
  """Prints why `drope export` will refuse the model, if it will.

  Said before the recalibration, which a choice of other norms would repeat.
  """
  try:
    hf_architecture.choose(config)
  except ValueError as error:
    reason = flags.named(str(error), export.FLAGS)
    terminal.say(f"`drope export` will not write this model as it is: {reason}")


def _summary(args: argparse.Namespace) -> str:
  done = []
  if args.theta is not None:
    done.append(f"theta {args.theta:g}")
  if args.scaling is not None:
    done.append(f"scaling {args.scaling} by {args.scaling_factor:g}")
  for layer, tokens in args.window:
    done.append(f"a window of {tokens} tokens in layer {layer}")
  if args.drop != "none":
    which = "all layers" if args.drop == "all" else f"layers {args.drop}"
    kept = ""
    if args.keep_rotations is not None:
      noun = "rotation" if args.keep_rotations == 1 else "rotations"
      kept = f" but of pairs that complete {args.keep_rotations:g} {noun}"
    elif args.keep_pairs is not None:
      kept = f" but of the {args.keep_pairs} fastest pairs"
    done.append(f"positions dropped in {which}{kept}")
  if args.qk_norm != "none":
    done.append(
      f"{args.qk_norm_scope} norm added to {' and '.join(args.qk_norm)} with "
      f"{args.qk_norm_init} gains"
    )
  if args.logit_scale is not None:
    done.append(f"logit scale {args.logit_scale:g}")
  if args.logit_scale_slope is not None:
    done.append(f"logit scale slope {args.logit_scale_slope:g}")
  return "; ".join(done)
