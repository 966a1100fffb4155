"""Silences what comes after a checkpoint's read or save has failed.

The failure itself is explained in one line. But Orbax stops at the first array
that cannot be read, with others under way; as these fail too, or are cut off by
Ctrl-C, Python and asyncio print a traceback of each, at any time until the
process ends. And each thread of a save logs the error that is raised later.

Ctrl-C itself can come within a callback of the garbage collector's, or another
of those whose exceptions Python prints and drops: there it is sent again.
"""

import functools
import logging
import pathlib
import sys
import warnings

from drope_jax.cli import termination

_LOGGED = "Task was destroyed but it is"


def silence() -> None:
  """Silences these alone, for the rest of the process."""
  for name in ("asyncio", "absl"):
    logging.getLogger(name).addFilter(_is_other_record)
  warnings.filterwarnings("ignore", ".* was never awaited", RuntimeWarning)
  hook = sys.unraisablehook
  if getattr(hook, "func", None) is not _report:
    sys.unraisablehook = functools.partial(_report, hook)


def _is_other_record(record: logging.LogRecord) -> bool:
  if _LOGGED in str(record.msg):
    return False
  if record.exc_info is None:
    return True
  # Orbax raises what it logs.
  of_orbax = "orbax" in pathlib.PurePath(record.pathname).parts
  return not (of_orbax or _is_failed_io(record.exc_info[1]))


def _report(hook, unraisable) -> None:
  if isinstance(unraisable.exc_value, KeyboardInterrupt):
    termination.send_again(unraisable.exc_value)
  elif not _is_failed_io(unraisable.exc_value):
    hook(unraisable)


def _is_failed_io(error: BaseException | None) -> bool:
  # They have no type of their own. Orbax's loop is the only one in a command.
  text = str(error)
  return (
    "tensorstore" in text.lower()
    or "in OCDBT database" in text
    or text == "Event loop is closed"
    or "_UnixSelectorEventLoop" in text  # Ctrl-C, before it was made whole.
  )
