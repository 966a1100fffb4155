"""Silences errors that follow a failed read or save of a checkpoint.

The failure itself is reported in one line. But Orbax stops at the first array
that cannot be read while others are in progress. These fail too, or Ctrl-C
cancels them. Then Python and asyncio print a traceback for each, at any time
until the process ends. Each thread of a save also logs the error that is raised
later.

Ctrl-C itself can arrive in a callback of the garbage collector, or in another
place where Python prints an exception and drops it. Then the signal is sent
again.
"""

import functools
import logging
import pathlib
import sys
import warnings

from drope_jax.cli import termination

_LOGGED = "Task was destroyed but it is"


def silence() -> None:
  """Silences these errors only, until the process ends."""
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
  # Orbax also raises what it logs.
  of_orbax = "orbax" in pathlib.PurePath(record.pathname).parts
  return not (of_orbax or _is_failed_io(record.exc_info[1]))


def _report(hook, unraisable) -> None:
  if isinstance(unraisable.exc_value, KeyboardInterrupt):
    termination.resend(unraisable.exc_value)
  elif not _is_failed_io(unraisable.exc_value):
    hook(unraisable)


def _is_failed_io(error: BaseException | None) -> bool:
  # These errors have no type of their own. Only Orbax runs an event loop here.
  text = str(error)
  return (
    "tensorstore" in text.lower()
    or "in OCDBT database" in text
    or text == "Event loop is closed"
    or "_UnixSelectorEventLoop" in text  # Ctrl-C came while it was created.
  )
