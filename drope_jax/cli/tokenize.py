"""`drope tokenize`: text to a token store."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import os
import time

from etils import epath
import rich.progress

from drope_jax.cli import console as consoles
from drope_jax.cli import flags, terminal, text_inputs
from drope_jax.data import corpus, paths, reading, writer
from drope_jax.data import sources as sources_lib
from drope_jax.data import tokenizer as tokenizer_lib

_PACKAGED = "packaged"

_FLAGS = {
  "separator": "--separator",
  "encoding": "--encoding",
  "ending": "--format",
  "skip_bad": "--skip-bad",
  "max_document_bytes": "--max-document-mib",
}

# How many unreadable documents are reported with the reason.
_SHOWN = 3


@flags.naming(_FLAGS)
def run(args: argparse.Namespace) -> None:
  """Writes the store and prints a summary.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, with an explanation.
  """
  if args.workers < 1:
    raise ValueError(
      f"--workers must be at least 1, got {args.workers}. Leave it out to use "
      "every core."
    )
  sources = text_inputs.expand(args.inputs, _options(args))
  path = os.fspath(paths.resolve(args.tokenizer))
  if args.train_vocab is not None:
    path = os.fspath(paths.output(args.tokenizer))
    _train(path, args.train_vocab, sources, args.out)
  elif args.tokenizer == _PACKAGED:
    path = corpus.tokenizer_path()
  bad: list[str] = []

  def on_skip(skipped: reading.Skipped) -> None:
    if skipped.kind == "bad" and len(bad) < _SHOWN:
      bad.append(f"left out: {flags.named(skipped.why, _FLAGS)}")

  with _interrupted(sources, args.out), _progress(len(sources)) as on_progress:
    store = writer.write(
      args.out,
      sources,
      path,
      workers=args.workers,
      on_progress=on_progress,
      on_skip=on_skip,
    )
  for line in bad:
    terminal.say(line, stderr=True)
  terminal.say(
    f"{args.out}: {store.num_tokens:,} tokens in {store.num_documents:,} "
    f"documents, vocabulary {store.vocab_size:,}, fingerprint "
    f"{store.fingerprint[:12]}{_left_out(store.metadata.skipped)}"
  )


def _options(args: argparse.Namespace) -> reading.Options:
  ending = args.format and "." + args.format.lower().removeprefix(".")
  return reading.Options(
    separator=args.separator,
    encoding=args.encoding,
    ending=ending,
    skip_bad=args.skip_bad,
    max_document_bytes=args.max_document_mib << 20,
  )


@contextlib.contextmanager
def _progress(num_sources: int) -> Iterator[Callable[[int, int], None]]:
  """Shows a bar; yields the `on_progress` for `writer.write`."""
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
    task = progress.add_task("", total=num_sources, tokens=0, rate=0)
    start = None

    def on_progress(done: int, tokens: int) -> None:
      nonlocal start
      start = start or (time.monotonic(), tokens)  # Tokens of earlier starts.
      rate = (tokens - start[1]) / (time.monotonic() - start[0] + 1e-9)
      progress.update(task, completed=done, tokens=tokens, rate=rate)

    yield on_progress


@contextlib.contextmanager
def _interrupted(
  sources: Sequence[sources_lib.Source], out: str
) -> Iterator[None]:
  """At Ctrl-C and SIGTERM, says if the same command cannot resume."""
  try:
    yield
  except KeyboardInterrupt as interrupt:
    if not _reads_standard_input(sources):
      raise
    raise type(interrupt)(
      f"stopped; standard input cannot be resumed: delete {out} and start again"
    ) from None


def _reads_standard_input(sources: Sequence[sources_lib.Source]) -> bool:
  return any(isinstance(s, sources_lib.StandardInput) for s in sources)


def _left_out(skipped: Mapping[str, int]) -> str:
  counts = [f"{count:,} {kind}" for kind, count in skipped.items() if count]
  return f"; left out: {', '.join(counts)} documents" if counts else ""


def _train(
  path: str, vocab_size: int, sources: Sequence[sources_lib.Source], out: str
) -> None:
  if not path.endswith(".model"):
    raise ValueError(
      "--train-vocab writes a sentencepiece model, which must end in .model, "
      f"got --tokenizer {path}. Change its name."
    )
  if _reads_standard_input(sources):
    raise ValueError(
      "--train-vocab reads its inputs twice, got standard input, which can be "
      "read only once. Save it as a file."
    )
  if not epath.Path(path).exists():
    texts = sources_lib.texts(sources)
    tokenizer_lib.train_sentencepiece(texts, vocab_size, path)
    return
  # A stopped command has trained its tokenizer already. The writer checks that
  # the store was begun with the same one.
  resuming = paths.output(out).exists()
  if not resuming or tokenizer_lib.load(path).vocab_size != vocab_size:
    raise ValueError(
      f"--train-vocab needs a new file for its tokenizer, got {path}, which "
      "exists. Leave out --train-vocab to use it, or name another."
    )
