"""Plans from the compiler's buffers, without the code of their programs.

The compiler assigns buffers within seconds, and by then it has decided memory
and collectives. Generating code takes minutes, and cannot be turned off. So
another process compiles, and is ended once it has written down the buffers.
"""

from collections.abc import Callable
import functools
import multiprocessing
from multiprocessing import connection
import pathlib
import re
import tempfile
from typing import Any, TypeVar

import jax

from drope_jax import child
from drope_jax.perf import compiler

T = TypeVar("T")

_MAIN = "module_0000.*"
"""Of the compiler's dump; others are parts that it compiles on the way."""
_TEXT = "after_optimizations_after_buffer_assignment.txt"
_BUFFERS = "after_optimizations-buffer-assignment.txt"
_LAST = "debug_options"
"""Written at first, and again after the other two, before code is generated."""
_POLL_S = 0.2
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (.*)$", re.MULTILINE)


def plan(function: Callable[..., tuple[T, Any]], *args: Any) -> T:
  """Returns what `training.plan` or `evaluation.plan` would, in seconds.

  The temporaries lack the size of the code. A program whose code cannot be
  generated, because a kernel needs more VMEM than there is, passes unnoticed.

  Args:
    function: one of the two.
    args: its arguments.

  Raises:
    ValueError: as `function`.
    RuntimeError: the program does not compile, or the other process ended by
      itself.
  """
  context = multiprocessing.get_context("spawn")
  with tempfile.TemporaryDirectory() as folder:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
      target=_compile, args=(sender, folder, function, args), daemon=True
    )
    process.start()
    sender.close()
    try:
      while not receiver.poll(_POLL_S):
        if (program := _read(pathlib.Path(folder))) is not None:
          return function(*args, compile_=lambda lowered: program)[0]
      found = receiver.recv()
    except EOFError as error:
      process.join()
      raise RuntimeError(
        f"The compiler's process ended with status {process.exitcode}."
      ) from error
    finally:
      process.kill()
      process.join()
  if isinstance(found, Exception):
    raise found
  return found


def _compile(
  sender: connection.Connection,
  folder: str,
  function: Callable[..., tuple[Any, Any]],
  args: tuple[Any, ...],
) -> None:
  """Sends a plan, or the error of a user or of XLA, from its own process."""
  child.end_with_parent()
  compile_ = functools.partial(compiler.compile, dump=folder)
  try:
    compiler.prepare()
    sender.send(function(*args, compile_=compile_)[0])
  except ValueError as error:
    sender.send(ValueError(str(error)))
  except jax.errors.JaxRuntimeError as error:
    sender.send(jax.errors.JaxRuntimeError(str(error)))


def _read(folder: pathlib.Path) -> compiler.Program | None:
  """Returns the program in a dump, once its buffers are assigned."""
  texts = list(folder.glob(f"{_MAIN}.{_TEXT}"))
  last = list(folder.glob(f"{_MAIN}.{_LAST}"))
  if not texts or not last:
    return None
  (text,) = texts
  if last[0].stat().st_mtime_ns < text.stat().st_mtime_ns:
    return None  # The text is still being written.
  (buffers,) = folder.glob(f"{_MAIN}.{_BUFFERS}")
  return compiler.Program(
    True, _bytes(buffers.read_text()), text.read_text(), None
  )


def _bytes(buffers: str) -> int:
  """Returns the HBM of all allocations.

  What a fusion has for itself ("thread-local") is in no memory of its own, and
  other memories than HBM have a color.
  """
  return sum(
    int(size)
    for size, what in _ALLOCATION.findall(buffers)
    if "thread-local" not in what and "color" not in what
  )
