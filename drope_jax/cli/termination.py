"""Ctrl-C, and SIGTERM with which a machine is taken back.

Either ends a command by an exception, a training after a save.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading

from drope_jax.cli import terminal

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_AGAIN_S = 0.05


class Terminated(KeyboardInterrupt):
  """SIGTERM came; like Ctrl-C, but for the process's exit status."""


def at_once(signum, frame) -> None:
  """Ends whatever runs; a handler of SIGTERM."""
  raise Terminated


def send_again(interrupt: KeyboardInterrupt) -> None:
  """Repeats soon a signal whose exception ended nothing."""
  terminated = isinstance(interrupt, Terminated)
  number = signal.SIGTERM if terminated else signal.SIGINT
  timer = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number))
  timer.daemon = True
  timer.start()


class StopRequest:
  """A signal's request that a training save its step and end.

  A second signal ends the process at once, and so does the first where nothing
  is unsaved. None raises an exception: it could come where Python drops it, as
  in a callback of the garbage collector's, or where C++ calls Python.

  Attributes:
    number: the signal's; None before one has come.
  """

  def __init__(self, command: str, resumes: bool):
    self.number: int | None = None
    self._command = command
    self._then = "; the same command resumes" if resumes else ""
    self._waits = self._told = False

  def stopping(self, step: int) -> bool:
    """Returns whether to save `step` and end; from here on, a signal waits."""
    self._waits = True
    return self.number is not None

  def saved(self) -> None:
    """Notes that nothing is unsaved: from here on, a signal ends at once."""
    self._waits = False

  def error(self, what: str) -> KeyboardInterrupt:
    """Returns what ends the command once `what` was done."""
    number = self.number or signal.SIGTERM  # Another process got it.
    kind = KeyboardInterrupt if number == signal.SIGINT else Terminated
    return kind(f"{_WORDS[number]}; {what}{self._then}")

  def note(self, number: int, frame) -> None:
    """Handles a signal in the main thread, once no library's call is under way.

    Python calls it there, in the thread that asks `stopping`.
    """
    self.number = number

  def watch(self, pipe: int) -> None:
    """Handles it in a thread of its own, whatever the main one is doing."""
    while numbers := os.read(pipe, 1):
      number = numbers[0]
      if number not in _WORDS:
        continue
      if not self._waits or self._told:
        self._end(number)
      self._told = True
      self.say(f"{_WORDS[number]}; will save and end; once more ends at once")

  def say(self, words: str) -> None:
    """Prints a line of the command's, from any thread."""
    # Past Python's buffer, whose lock the main thread may hold.
    line = terminal.printable(f"drope {self._command}: {words}\n")
    os.write(sys.__stderr__.fileno(), line.encode())

  def _end(self, number: int) -> None:
    if sys.__stderr__.isatty():
      # A live display hides the cursor.
      os.write(sys.__stderr__.fileno(), b"\x1b[?25h\n")
    self.say(f"{_WORDS[number]}{self._then}")
    os._exit(128 + number)


@contextlib.contextmanager
def stop_request(command: str, resumes: bool = True) -> Iterator[StopRequest]:
  """Turns Ctrl-C and SIGTERM into the `StopRequest` that it gives.

  Args:
    command: that the messages are of.
    resumes: whether they say that it does.
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
  """Returns the handlers of both signals, but for what is ignored."""
  return {
    number: handler
    for number in _WORDS
    if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
  }


@contextlib.contextmanager
def in_any_call() -> Iterator[None]:
  """Lets Ctrl-C and SIGTERM end the process within a library's call, too.

  Python's own handlers wait until it returns, for minutes while it compiles.
  """
  previous = _handlers()
  for number in previous:
    signal.signal(number, signal.SIG_DFL)
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
