"""Several processes as one program, which fail together and say why."""

from collections.abc import Iterator
import contextlib
import os
import socket
import sys
import time
import traceback

import jax

from drope_jax.cli import mistakes, terminal

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_HEARTBEAT_S = 30
_GONE = ("Gloo", "heartbeat", "CoordinationService")


@contextlib.contextmanager
def joined(timeout_s: int) -> Iterator[None]:
  """Joins the processes that `VARIABLES` name, or that JAX finds by itself.

  An exception other than the program's end ends the process here: JAX would
  wait for the others, one of which may have died, and then abort.

  Args:
    timeout_s: how long to wait for all to start.

  Raises:
    ValueError: some variables are missing, or some processes.
  """
  found = {name: os.environ.get(name) for name in VARIABLES}
  if any(found.values()):
    missing = [name for name, value in found.items() if not value]
    if missing:
      raise ValueError(
        f"--distributed needs {', '.join(VARIABLES)} together, or none where "
        f"JAX knows its cluster, got no {', '.join(missing)}. Set all."
      )
    address, count, index = found.values()
    _await_all(address, int(count), int(index), timeout_s)
    jax.distributed.initialize(
      address,
      int(count),
      int(index),
      initialization_timeout=timeout_s,
      heartbeat_timeout_seconds=_HEARTBEAT_S,
    )
  else:
    jax.distributed.initialize(
      initialization_timeout=timeout_s, heartbeat_timeout_seconds=_HEARTBEAT_S
    )
  try:
    yield
  except Exception as error:
    _end(error)


def _end(error: Exception) -> None:
  explained = mistakes.explain(error)
  if any(word in str(error) for word in _GONE):
    explained = (
      "another process of the run has ended, so this one ends too. See what it "
      "said, and start all again: they resume"
    )
  if explained is None:
    traceback.print_exc()
  else:
    text = f"drope train: {' '.join(explained.split())}"
    terminal.say(text, stderr=True)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(1 if explained is None else 2)


def _await_all(address: str, count: int, index: int, timeout_s: int) -> None:
  """Waits for all processes; JAX would abort without saying which lack."""
  host, _, port = address.rpartition(":")
  deadline = time.monotonic() + timeout_s
  if index == 0:
    absent = _gather(int(port), count, deadline)
  else:
    absent = _report((host, int(port)), index, deadline)
  if absent:
    raise ValueError(
      f"{count} processes are needed, got {count - len(absent)} within "
      f"{timeout_s} s: {', '.join(map(str, absent))} missing. Start one for "
      "each JAX_PROCESS_ID, or lower JAX_NUM_PROCESSES."
    )


def _gather(port: int, count: int, deadline: float) -> list[int]:
  """Returns the processes that did not come, and tells those that did."""
  came: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(socket.create_server(("", port)))
    while len(came) < count - 1 and (left := deadline - time.monotonic()) > 0:
      server.settimeout(left)
      with contextlib.suppress(OSError, ValueError):
        connection = stack.enter_context(server.accept()[0])
        connection.settimeout(left)
        came[int(connection.recv(16))] = connection
    absent = sorted({*range(1, count)} - came.keys())
    for connection in came.values():
      with contextlib.suppress(OSError):
        connection.sendall(f"absent {' '.join(map(str, absent))}".encode())
  return absent


def _report(address: tuple[str, int], index: int, deadline: float) -> list[int]:
  """Returns what the first process says is missing."""
  while (left := deadline - time.monotonic()) > 0:
    try:
      with socket.create_connection(address, timeout=left) as connection:
        connection.settimeout(left + 5)
        connection.sendall(str(index).encode())
        word, *absent = connection.recv(1 << 16).decode().split()
        return [int(i) for i in absent]
    except (OSError, ValueError):  # It has not started, or has just died.
      time.sleep(0.1)
  return [0]
