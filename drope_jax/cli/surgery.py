"""Drops a model's positions, adds QK norms: checkpoint to checkpoint.

The result is not the same function: recalibrate it with `drope train`, whose
surgery phase does the same as this command.
"""

import argparse
import datetime
import os

import numpy as np

from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import revision, store
from drope_jax.data import paths
from drope_jax.data import store as data_store
from drope_jax.model.config import QK_NORM_SCOPES, QK_NORMS
from drope_jax.surgery import compose, qk_norm

_CALIBRATION_TOKENS = 2**14


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument("--out", required=True, help="new checkpoint directory")
  parser.add_argument(
    "--drop",
    default="all",
    metavar="all|none|LAYER,...",
    help="layers that lose their positions, counted from 0 (default: all)",
  )
  parser.add_argument("--qk-norm", default="none", choices=QK_NORMS)
  parser.add_argument(
    "--qk-norm-scope",
    default="joint",
    choices=QK_NORM_SCOPES,
    help="one norm over all heads, as in the paper, or one in each head",
  )
  parser.add_argument(
    "--qk-norm-init",
    default="unit",
    choices=qk_norm.INITS,
    help="gains of one, or matched to the size of q and k on text",
  )
  parser.add_argument(
    "--calibrate", metavar="STORE", help="token store for matched gains"
  )
  parser.add_argument("--logit-scale", type=float, help="the model's new one")


def run(args: argparse.Namespace) -> None:
  """Writes the operated checkpoint and says what changed."""
  surgery = compose.Surgery(
    drop=_layers(args.drop),
    qk_norm=args.qk_norm,
    qk_norm_scope=args.qk_norm_scope,
    qk_norm_init=args.qk_norm_init,
    logit_scale=args.logit_scale,
  )
  if surgery.needs_tokens != (args.calibrate is not None):
    raise ValueError(
      "Matched gains of a QK norm and --calibrate come together, got "
      f"--qk-norm {args.qk_norm} --qk-norm-init "
      f"{args.qk_norm_init} --calibrate {args.calibrate}. Give both or neither."
    )
  out = store.require_new(args.out)
  parent = store.locate(paths.resolve(args.checkpoint))
  params, manifest = store.load_model(parent)
  tokens_BS, calibration = None, None
  if args.calibrate is not None:
    tokens_BS, calibration = _calibration(args.calibrate, manifest)
  config, params = compose.apply(surgery, manifest.model, params, tokens_BS)
  last = manifest.lineage[-1] if manifest.lineage else None
  entry = manifests.LineageEntry(
    operation="surgery",
    arguments={"surgery": surgery, "calibration": calibration},
    parent=os.fspath(parent),
    tokens=last.tokens if last else 0,
    steps=last.steps if last else 0,
    code=revision.describe(),
    time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  )
  tokenizer = store.tokenizer_path(parent) if manifest.tokenizer else None
  store.save_model(out, params, manifest.appended(entry, config), tokenizer)
  print(f"{out}: {_summary(surgery)}. Recalibrate it before you judge it.")


def _layers(text: str) -> str | tuple[int, ...]:
  if text in ("all", "none"):
    return text
  try:
    return tuple(int(layer) for layer in text.split(","))
  except ValueError as error:
    raise ValueError(
      f"--drop takes all, none, or layers such as 0,2,5, got {text!r}. "
      "Separate numbers by commas only."
    ) from error


def _calibration(
  path: str, manifest: manifests.Manifest
) -> tuple[np.ndarray, dict[str, str | int]]:
  """Returns the first sequences of a store, and what to call them."""
  tokens = data_store.Store.open(path)
  trained = manifest.tokenizer and manifest.tokenizer.fingerprint
  if trained not in (None, tokens.tokenizer_fingerprint):
    raise ValueError(
      f"--calibrate needs text in the model's tokens, got {path}, made with "
      f"tokenizer {tokens.tokenizer_fingerprint[:12]} where the model has "
      f"{trained[:12]}. Tokenize the text again."
    )
  S = manifest.model.context_tokens
  B = min(max(_CALIBRATION_TOKENS // S, 1), tokens.num_tokens // S)
  if B < 1:
    raise ValueError(
      f"--calibrate needs one sequence of {S} tokens, got {tokens.num_tokens} "
      f"in {path}. Name a longer store."
    )
  tokens_BS = np.reshape(tokens.read(0, B * S), (B, S))
  return tokens_BS, {"store": tokens.fingerprint, "tokens": B * S}


def _summary(surgery: compose.Surgery) -> str:
  done = []
  if surgery.drop != "none":
    layers = surgery.drop if surgery.drop == "all" else list(surgery.drop)
    done.append(f"positions dropped in layers {layers}")
  if surgery.qk_norm != "none":
    done.append(
      f"{surgery.qk_norm_scope} norm added to {' and '.join(surgery.qk_norm)} "
      f"with {surgery.qk_norm_init} gains"
    )
  if surgery.logit_scale is not None:
    done.append(f"logit scale {surgery.logit_scale:g}")
  return "; ".join(done)
