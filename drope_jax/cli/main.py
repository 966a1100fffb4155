"""`drope`: runs a command, and reports mistakes in one line.

A command is two modules with its name. The one in `arguments` has
`add_arguments(parser)`, and its docstring is the help text. It imports only the
standard library, so that help and mistakes in arguments do not wait for jax.
The one in this package has `run(args) -> int | None`.
"""

import argparse
from collections.abc import Sequence
import difflib
import importlib
import logging
import os
import pathlib
import signal
import sys

import drope_jax
from drope_jax.cli import failed_io, memory, mistakes, terminal, termination
from drope_jax.exits import Exit

COMMANDS = {
  "demo": "DroPE on the packaged corpus, with a report",
  "tokenize": "text, JSON or parquet to a token store",
  "sample": "a model's own text to a token store",
  "train": "run a recipe's phases, or resume them",
  "convert": "Hugging Face, Meta, llama2.c or GGUF weights to a checkpoint",
  "surgery": "drop positions or add QK norms: checkpoint to checkpoint",
  "trim": "a checkpoint's vocabulary to the tokens that a store has most",
  "export": "a checkpoint to a stock Hugging Face folder",
  "evaluate": "perplexity and needle retrieval: results.json and a table",
  "generate": "text from a checkpoint",
  "inspect": "a checkpoint's config, lineage and parameter table",
  "recipes": "list the shipped recipes, models, evals and sweeps, or print one",
  "sweep": "train every combination of changes to a recipe, over seeds",
  "plan": "whether a recipe fits a TPU slice, and its cost, without a TPU",
  "analyse": "what attention does with positions: figures and a json",
  "report": "one self-contained HTML page with the plots",
}

_RESUMABLE = frozenset(
  {"demo", "evaluate", "sample", "sweep", "tokenize", "train"}
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns the process's exit status.

  `exits.Exit` lists all: 0 for success, 1 for a bug with a traceback, 2 for a
  mistake in the command, its config or its input, explained in one line. 130
  after Ctrl-C, and 143 after SIGTERM; before either, a training run finishes
  its step and saves. With DROPE_DEBUG=1 in the environment, a mistake shows its
  traceback too.

  Args:
    argv: arguments after the program's name; by default the process's own.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  name = _command_name(argv)
  previous = signal.signal(signal.SIGTERM, termination.terminate)
  try:
    args = parser(name).parse_args(argv[1:])
    with termination.stop_request(name, name in _RESUMABLE):
      prepare_libraries()
      command = importlib.import_module(f"drope_jax.cli.{name}")
    status = command.run(args) or 0
    sys.stdout.flush()  # Here, where a closed pipe is handled.
    return status
  except KeyboardInterrupt as interrupt:
    terminated = isinstance(interrupt, termination.Terminated)
    message = "terminated" if terminated else "interrupted"
    if name in _RESUMABLE:
      message += "; the same command resumes"
    status = Exit.TERMINATED if terminated else Exit.INTERRUPTED
    return _fail(name, str(interrupt) or message, status)
  except BrokenPipeError:  # The reader, e.g. `head`, has closed the pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
  except Exception as error:
    explained = mistakes.explain(error)
    if explained is None or os.environ.get("DROPE_DEBUG") == "1":
      raise
    return _fail(name, explained, mistakes.status(error))
  finally:
    signal.signal(signal.SIGTERM, previous)


def parser(name: str) -> argparse.ArgumentParser:
  """Returns the parser of a command's arguments."""
  arguments = importlib.import_module(f"drope_jax.cli.arguments.{name}")
  found = terminal.Parser(
    prog=f"drope {name}",
    description=arguments.__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  arguments.add_arguments(found)
  return found


def _command_name(argv: list[str]) -> str:
  """Returns the chosen command; exits after --help, --version or a mistake."""
  width = max(map(len, COMMANDS))
  parser = terminal.Parser(
    prog="drope",
    usage="drope COMMAND [ARGUMENT...]",
    description="DroPE: drop a model's positional embeddings, recalibrate it "
    "briefly,\nand use it beyond its trained context.",
    epilog="commands (`drope COMMAND --help` explains each):\n"
    + "\n".join(f"  {name:{width}}  {help}" for name, help in COMMANDS.items()),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  version = drope_jax.__version__
  parser.add_argument("--version", action="version", version=version)
  parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
  name = parser.parse_args(argv[:1]).command
  if name is None:
    parser.print_help()
    parser.exit(2)
  if name not in COMMANDS:
    near = difflib.get_close_matches(name, COMMANDS, n=1) or COMMANDS
    parser.error(f"no command {name!r}; did you mean {' or '.join(near)}?")
  return name


def prepare_libraries() -> None:
  """Silences the libraries, and sets their memory and compilation cache.

  The environment is set here, before jax is imported, because only the program
  that owns the process may do that. Variables that the user has set are kept.
  """
  # A local import: it takes 30 ms, which `drope --help` does not need.
  from absl import logging as absl_logging

  absl_logging.set_verbosity(absl_logging.ERROR)
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  failed_io.silence()
  memory.keep_freed_memory()
  cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
  cache = cache.expanduser() / "drope_jax" / "compiled"
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")


def _fail(name: str, message: str, status: int) -> int:
  terminal.complain(f"drope {name}", message)
  return status


if __name__ == "__main__":
  sys.exit(main())
