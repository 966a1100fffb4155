"""Turns text into a token store, in parallel; the same command resumes.

An INPUT is a file of text (.txt, .md), JSON lines with a field "text" (.jsonl,
.ndjson, .json), a JSON array of such objects (.json), or parquet with a column
"text" (.parquet). Each may be compressed (.gz, .zst, .xz, .bz2). An INPUT can
also be a folder or a glob of such files; - for standard input; or
packaged:train, packaged:fit or packaged:test, the splits of the packaged
corpus. Hidden files and files of other formats in a folder are left out, and
are reported in a line.

  drope tokenize 'texts/*.jsonl.zst' --tokenizer tokenizer.json --out store
  drope tokenize books/ --tokenizer my.model --train-vocab 8192 --out store
  zcat a.gz | drope tokenize - --format jsonl --tokenizer packaged --out store
"""

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("inputs", nargs="+", metavar="INPUT", help="see above")
  parser.add_argument(
    "--tokenizer",
    required=True,
    metavar="T",
    help="a sentencepiece .model, a Hugging Face tokenizer.json, or "
    "'packaged' for the one trained on the packaged corpus",
  )
  parser.add_argument("--out", required=True, metavar="STORE", help="a folder")
  parser.add_argument(
    "--train-vocab",
    type=int,
    metavar="N",
    help="first train a sentencepiece BPE model of N pieces on the inputs and "
    "write it to T; reads all inputs into memory (default: T exists)",
  )
  parser.add_argument(
    "--separator",
    metavar="LINE",
    help="a line that ends a document of a text file (default: each file is "
    "one document)",
  )
  parser.add_argument(
    "--format",
    metavar="F",
    help="format of standard input (default: txt), and of files whose names do "
    "not tell it (default: refused, or left out of a folder), e.g. jsonl or "
    "txt.gz",
  )
  parser.add_argument(
    "--encoding",
    default="utf-8",
    metavar="E",
    help="of text and JSON without a byte order mark, e.g. utf-16, latin-1 or "
    "cp1252 (default: %(default)s)",
  )
  parser.add_argument(
    "--skip-bad",
    action="store_true",
    help="leave out documents that cannot be read, and count them (default: "
    "the first one ends the command)",
  )
  parser.add_argument(
    "--max-document-mib",
    type=int,
    default=1024,
    metavar="N",
    help="limit of a document, a line of JSON or a JSON array; reading takes a "
    "few times as much memory (default: %(default)s)",
  )
  parser.add_argument(
    "--workers",
    type=int,
    default=os.cpu_count(),
    metavar="W",
    help="processes that encode, besides one that reads (default: %(default)s)",
  )
