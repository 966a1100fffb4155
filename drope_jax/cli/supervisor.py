"""Runs a command in a child process, so that a crash can be reported.

JAX's C++ runtime aborts the process, from its own thread, as soon as the
coordinator of the run has died. Python code cannot run before that. The process
that the user started only waits for the child, forwards signals, and reports.
"""

import ctypes
import os
import pathlib
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def fork(log: pathlib.Path) -> int | None:
  """Continues in a child process; the parent waits until it ends.

  What libraries in the child write to standard error goes to `log`; what Python
  writes to `sys.stderr` is not diverted. The child dies with its parent. Works
  only on Linux.

  Returns:
    None in the child; in the parent the child's exit status, or the negative
    number of the signal that ended it.
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
  if os.getppid() != parent:  # The parent died before the call of prctl.
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
    # A signal from the kernel, e.g. of Ctrl-C, has reached the child too.
    elif came.si_code <= 0:
      os.kill(child, came.si_signo)


def _divert_standard_error(log: pathlib.Path) -> None:
  kept = os.dup(sys.stderr.fileno())
  opened = os.open(log, os.O_WRONLY | os.O_APPEND)
  os.dup2(opened, 2)
  os.close(opened)
  # `termination` writes to the original stream.
  sys.stderr = sys.__stderr__ = os.fdopen(  # type: ignore[misc]
    kept,
    "w",
    buffering=1,
    encoding=sys.stderr.encoding,
    errors=sys.stderr.errors,
  )
