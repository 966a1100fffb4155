"""The exit statuses of `drope`. Imports no jax, for programs that start it.

A command ended by a signal exits with 128 + the signal's number, as in a shell.
This project's own statuses are above those of sysexits.h, which end at 78, and
below the shell's.
"""

import enum


class Exit(enum.IntEnum):
  """How a command ended, and what to do.

  Attributes:
    DONE: nothing is left to do.
    BUG: a traceback was printed; the same command will fail again.
    MISTAKE: of the user or the environment, explained in one line. The same
      command will fail again until it is corrected.
    DOES_NOT_FIT: `drope plan` found that the recipe does not fit.
    OUT_OF_MEMORY: on a device or the host. The same command will fail again.
    HOST_LOST: another process of the run ended, or never started. Restart all.
    STALLED: no step finished for too long; the heartbeats show where. Restart
      all.
    UNREACHABLE: a bucket or the network did not answer. The same command may
      succeed later.
    INTERRUPTED: by Ctrl-C; a training run has saved its step.
    KILLED: for example by the kernel when the host's memory is full.
    TERMINATED: by SIGTERM; a training run has saved its step.
  """

  DONE = 0
  BUG = 1
  MISTAKE = 2
  DOES_NOT_FIT = 3
  OUT_OF_MEMORY = 80
  HOST_LOST = 81
  STALLED = 82
  UNREACHABLE = 83
  INTERRUPTED = 130
  KILLED = 137
  TERMINATED = 143


class HostLost(ValueError):
  """Another process of the run ended, or never started."""
