"""Handling of Ctrl-C, and of SIGTERM, which announces a preemption.

Both end a command with an exception; a training run saves first.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
from typing import TextIO

from drope_jax.cli import terminal

_WORDS: dict[int, str] = {
  signal.SIGINT: "interrupted",
  signal.SIGTERM: "terminated",
}
_AGAIN_S = 0.05


class Terminated(KeyboardInterrupt):
  """SIGTERM came; differs from Ctrl-C only in the exit status."""


def terminate(signum, frame) -> None:
  """Handles SIGTERM: raises `Terminated`."""
  raise Terminated


def resend(interrupt: KeyboardInterrupt) -> None:
  """Sends a signal again, shortly, if its exception was dropped."""
  terminated = isinstance(interrupt, Terminated)
  number = signal.SIGTERM if terminated else signal.SIGINT
  timer = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number))
  timer.daemon = True
  timer.start()


class StopRequest:
  """A request by a signal that a training run save its step and end.

  A second signal ends the process at once. So does the first if nothing is
  unsaved. No exception is raised, because Python may drop it, for example in a
  callback of the garbage collector or of C++.

  Attributes:
    number: of the signal; None before one has come.
  """

  def __init__(self, command: str, resumes: bool):
    self.number: int | None = None
    self._command = command
    self._then = "; the same command resumes" if resumes else ""
    self._waits = self._told = False

  def stopping(self, step: int) -> bool:
    """Returns whether to save `step` and end; afterwards, a signal waits."""
    self._waits = True
    return self.number is not None

  def saved(self) -> None:
    """Records that nothing is unsaved; afterwards, a signal ends at once."""
    self._waits = False

  def error(self, what: str) -> KeyboardInterrupt:
    """Returns the exception that ends the command after `what` was done."""
    number = self.number or signal.SIGTERM  # Another process received it.
    kind = KeyboardInterrupt if number == signal.SIGINT else Terminated
    return kind(f"{_WORDS[number]}; {what}{self._then}")

  def note(self, number: int, frame) -> None:
    """Handles a signal in the main thread, after any library call returns.

    Python calls it there, in the thread that calls `stopping`.
    """
    self.number = number

  def watch(self, pipe: int) -> None:
    """Handles signals in another thread, whatever the main thread does."""
    while numbers := os.read(pipe, 1):
      number = numbers[0]
      if number not in _WORDS:
        continue
      if not self._waits or self._told:
        self._end(number)
      self._told = True
      self.say(f"{_WORDS[number]}; will save and end; repeat to end at once")

  def say(self, words: str) -> None:
    """Prints a line of the command, from any thread."""
    # Not through Python's buffer, whose lock the main thread may hold.
    line = terminal.printable(f"drope {self._command}: {words}\n")
    os.write(_standard_error().fileno(), line.encode())

  def _end(self, number: int) -> None:
    if (stream := _standard_error()).isatty():
      # Show the cursor, which a live display hides.
      os.write(stream.fileno(), b"\x1b[?25h\n")
    self.say(f"{_WORDS[number]}{self._then}")
    os._exit(128 + number)


@contextlib.contextmanager
def stop_request(command: str, resumes: bool = True) -> Iterator[StopRequest]:
  """Turns Ctrl-C and SIGTERM into a `StopRequest`, which it yields.

  Args:
    command: named in the messages.
    resumes: whether the messages say that the same command resumes.
  """
  request = StopRequest(command, resumes)
  pipe, signals = os.pipe()
  os.set_blocking(signals, False)
  handlers = _handlers()
  fd = signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
  for number in handlers:
    signal.signal(number, request.note)
  thread = threading.Thread(target=request.watch, args=(pipe,), daemon=True)
  thread.start()
  try:
    yield request
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(fd)
    os.close(signals)
    thread.join()
    os.close(pipe)


def _handlers():
  """Returns the handlers of both signals, without signals that are ignored."""
  return {
    number: handler
    for number in _WORDS
    if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
  }


@contextlib.contextmanager
def interruptible_calls() -> Iterator[None]:
  """Lets Ctrl-C and SIGTERM end the process within a library call.

  Python's own handlers wait until the call returns; a compilation can take
  minutes.
  """
  previous = _handlers()
  for number in previous:
    signal.signal(number, signal.SIG_DFL)
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def _standard_error() -> TextIO:
  """Returns the process's own stream, even if `sys.stderr` was replaced."""
  assert sys.__stderr__ is not None
  return sys.__stderr__
