"""Silences what comes after a checkpoint's read has failed, and was explained.

Orbax stops at the first array that cannot be read, with others under way. As
these fail too, Python and asyncio print a traceback of each, at any time until
the process ends.
"""

import functools
import logging
import sys


def silence() -> None:
  """Silences these alone, for the rest of the process."""
  logging.getLogger("asyncio").addFilter(_is_other_record)
  hook = sys.unraisablehook
  if getattr(hook, "func", None) is not _report:
    sys.unraisablehook = functools.partial(_report, hook)


def _is_other_record(record: logging.LogRecord) -> bool:
  return not (record.exc_info and _is_failed_read(record.exc_info[1]))


def _report(hook, unraisable) -> None:
  if not _is_failed_read(unraisable.exc_value):
    hook(unraisable)


def _is_failed_read(error: BaseException | None) -> bool:
  # They have no type of their own. Orbax's loop is the only one in a command.
  text = str(error)
  return "tensorstore" in text.lower() or text == "Event loop is closed"
