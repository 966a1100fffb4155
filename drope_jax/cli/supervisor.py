"""A command in a process of its own, so that somebody is left after a crash.

JAX's C++ runtime aborts a process, from a thread of its own, as soon as the one
that coordinates the run has died: nothing in Python can come before that. The
process that the user started only waits, hands signals on, and can tell.
"""

import ctypes
import os
import pathlib
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def fork(log: pathlib.Path) -> int | None:
  """Goes on in a new process, whose end this one waits for.

  What the new process's libraries write to standard error themselves goes to
  `log`; what Python writes to `sys.stderr` still goes where it did. It dies
  with this one. On Linux alone.

  Returns:
    None in the new process; in this one its exit status, or what ended it as a
    negative signal.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  waited_for = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM}
  before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
  parent = os.getpid()
  child = os.fork()
  if child:
    return _wait(child, waited_for)
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:  # It died before that.
    os._exit(1)
  _divert_standard_error(log)
  signal.pthread_sigmask(signal.SIG_SETMASK, before)
  return None


def _wait(child: int, waited_for: set[signal.Signals]) -> int:
  while True:
    came = signal.sigwaitinfo(waited_for)
    if came.si_signo == signal.SIGCHLD:
      ended, status = os.waitpid(child, os.WNOHANG)
      if ended:
        return os.waitstatus_to_exitcode(status)
    # One from the kernel, such as Ctrl-C's, has reached the child, too.
    elif came.si_code <= 0:
      os.kill(child, came.si_signo)


def _divert_standard_error(log: pathlib.Path) -> None:
  kept = os.dup(sys.stderr.fileno())
  opened = os.open(log, os.O_WRONLY | os.O_APPEND)
  os.dup2(opened, 2)
  os.close(opened)
  sys.stderr = sys.__stderr__ = os.fdopen(
    kept,
    "w",
    buffering=1,
    encoding=sys.stderr.encoding,
    errors=sys.stderr.errors,
  )
