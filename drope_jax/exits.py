"""The statuses with which `drope` exits; without jax, for whoever starts it.

A command that a signal ended exits with 128 + its number, as in a shell. Those
of this project lie between sysexits.h's, which end at 78, and the shell's own.
"""

import enum


class Exit(enum.IntEnum):
  """How a command ended, and what there is to do.

  Attributes:
    DONE: nothing is left to do.
    BUG: a traceback says where; the same command fails again.
    MISTAKE: of the user's, or of the environment's, explained in one line; the
      same command fails again until that is mended.
    DOES_NOT_FIT: what `drope plan` found.
    OUT_OF_MEMORY: of a device or of the host; the same command fails again.
    HOST_LOST: another process of the run ended, or never came. Start all again.
    STALLED: no step was taken for too long, and the heartbeats say where. Start
      all again.
    INTERRUPTED: by Ctrl-C; a training has saved its step.
    KILLED: as by the kernel where the host's memory is full.
    TERMINATED: by SIGTERM; a training has saved its step.
  """

  DONE = 0
  BUG = 1
  MISTAKE = 2
  DOES_NOT_FIT = 3
  OUT_OF_MEMORY = 80
  HOST_LOST = 81
  STALLED = 82
  INTERRUPTED = 130
  KILLED = 137
  TERMINATED = 143


class HostLost(ValueError):
  """Another process of the run ended, or never came; the message says more."""
