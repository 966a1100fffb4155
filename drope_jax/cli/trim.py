"""`drope trim`: a checkpoint with a smaller vocabulary."""

import argparse
import dataclasses
import os
import tempfile

from etils import epath
import numpy as np

from drope_jax.checkpoint import store as checkpoints
from drope_jax.checkpoint import tokenizer_file
from drope_jax.cli import terminal
from drope_jax.data import paths
from drope_jax.data import store as stores
from drope_jax.surgery import vocabulary


def run(args: argparse.Namespace) -> None:
  """Writes the checkpoint and says how much of the store it still has.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  out = checkpoints.require_new(args.out)
  parent = checkpoints.locate(paths.resolve(args.checkpoint))
  file = checkpoints.tokenizer_path(parent)
  store = stores.Store.open(args.store)
  reference = tokenizer_file.reference(file)
  if store.tokenizer_fingerprint != reference.fingerprint:
    raise ValueError(
      "trim counts the tokens of the model's own tokenizer "
      f"({reference.fingerprint[:12]}), got a store of "
      f"{store.tokenizer_fingerprint[:12]}, {args.store}. Make the store with "
      f"the tokenizer in {parent}, or with `drope sample`."
    )
  counts_V = store.counts()
  with tempfile.TemporaryDirectory() as folder:
    file, ids = tokenizer_file.trimmed(
      file, epath.Path(folder), counts_V, args.vocabulary
    )
    params, manifest = checkpoints.load_model(parent)
    config, params = vocabulary.trim_vocabulary(manifest.model, params, ids)
    reference = tokenizer_file.reference(file)
    manifest = dataclasses.replace(manifest, tokenizer=reference).after(
      "trim",
      {"vocabulary": len(ids), "store": store.fingerprint},
      os.fspath(parent),
      model=config,
    )
    checkpoints.save_model(out, params, manifest, file)
  kept = counts_V[np.asarray(ids)].sum() / counts_V.sum()
  terminal.say(
    f"{args.out}: {len(ids):,} of {len(counts_V):,} tokens, which are "
    f"{kept:.2%} of {args.store}"
  )
