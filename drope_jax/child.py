"""A child process that does not outlive its parent."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
  """Ends this child of `multiprocessing` when its parent ends, or is killed."""
  threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
  parent = multiprocessing.parent_process()
  assert parent is not None  # Child processes alone call this.
  parent.join()
  os._exit(1)
