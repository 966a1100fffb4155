"""`drope sample`: a model's own text to a token store."""

import argparse
import math
import os

from drope_jax import revision, sharding
from drope_jax.checkpoint import store, tokenizer_file
from drope_jax.cli import console as consoles
from drope_jax.cli import memory, progress, terminal
from drope_jax.data import paths, writer
from drope_jax.inference import lm as lms
from drope_jax.inference import sampling


def run(args: argparse.Namespace) -> None:
  """Writes the store and prints a summary.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, with an explanation.
  """
  if not 0 < args.temperature < math.inf or not 0 <= args.seed < 2**32:
    raise ValueError(
      "sample needs a --temperature above 0 and a --seed from 0 to 2**32 - 1, "
      f"got {args.temperature} and {args.seed}. Change them."
    )
  checkpoint = store.locate(paths.resolve(args.checkpoint))
  file = store.tokenizer_path(checkpoint)
  mesh = None if args.mesh is None else sharding.make_mesh(args.mesh)
  with memory.while_loading():
    lm = lms.CheckpointLM.load(checkpoint, args.dtype, mesh=mesh)
  with_bos = lm.bos_id is not None and tokenizer_file.adds_bos(file)
  begin = args.begin or ("bos" if with_bos else "eos")
  text = sampling.ModelText(
    lm,
    store.fingerprint(checkpoint),
    begin_with_bos=begin == "bos",
    seed=args.seed,
    temperature=args.temperature,
    batch_size=args.batch,
    name=os.fspath(checkpoint),
  )
  provenance = {
    "model": os.fspath(checkpoint),
    "fingerprint": text.fingerprint,
    "context_tokens": lm.context_tokens,
    "seed": args.seed,
    "temperature": args.temperature,
    "begin": begin,
    "dtype": args.dtype,
    "code": revision.describe(),
    "lineage": store.describe(checkpoint)[0].to_json()["lineage"],
  }
  console = consoles.Console(stderr=True)
  with progress.SamplingProgress(args.tokens, console) as show:
    made = writer.write(
      args.out,
      [text],
      os.fspath(file),
      max_tokens=args.tokens,
      provenance=provenance,
      on_progress=lambda sources, tokens: show(tokens),
    )
  empty = made.metadata.skipped["empty"]
  terminal.say(
    f"{args.out}: {made.num_tokens:,} tokens in {made.num_documents:,} "
    f"documents of {checkpoint}, fingerprint {made.fingerprint[:12]}"
    + (f"; left out: {empty:,} empty documents" if empty else "")
  )
