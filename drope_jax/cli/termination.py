"""SIGTERM, with which a machine is taken back: at once, or after a save."""

from collections.abc import Callable, Iterator
import contextlib
import signal

STATUS = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
  """SIGTERM came; like Ctrl-C, but for the process's exit status."""


def at_once(signum, frame) -> None:
  """Ends whatever runs; a handler of SIGTERM."""
  raise Terminated


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
  """Gives whether SIGTERM has come, the first of which ends nothing here."""
  came = False

  def note(signum, frame):
    nonlocal came
    came = True
    signal.signal(signal.SIGTERM, previous)

  previous = signal.signal(signal.SIGTERM, note)
  try:
    yield lambda: came
  finally:
    signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def in_any_call() -> Iterator[None]:
  """Lets Ctrl-C and SIGTERM end the process within a library's call, too.

  Python's own handlers wait until it returns, for minutes while it compiles.
  """
  previous = {
    number: handler
    for number in (signal.SIGINT, signal.SIGTERM)
    if callable(handler := signal.getsignal(number))
  }
  for number in previous:
    signal.signal(number, signal.SIG_DFL)
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
