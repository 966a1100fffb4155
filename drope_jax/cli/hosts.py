"""Joins several processes to one program; they fail together, and say why."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import os
import pathlib
import re
import signal
import sys
import tempfile
import traceback

import jax
from jax._src import cloud_tpu_init, clusters

from drope_jax.cli import (
  agreement,
  machine,
  mistakes,
  readiness,
  rendezvous,
  supervisor,
  terminal,
)
from drope_jax.exits import Exit

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_PORT, _TPU_PORT = "JAX_COORDINATOR_PORT", "8476"
_HEARTBEAT_S = 30
# What JAX's runtime says of another process. A file of ours is named heartbeat.
_GONE = re.compile(
  r"Gloo|CoordinationService|heartbeat timeout|sending heartbeats"
)


def supervised() -> int | None:
  """Continues in a child process; this process reports its crash in one line.

  Outside Linux it continues in this process, and JAX reports a crash.

  Returns:
    None in the process that continues; in the parent, the status to exit with.
  """
  if sys.platform != "linux":
    return None
  handle, name = tempfile.mkstemp(prefix="drope-train-", suffix=".log")
  os.close(handle)
  log = pathlib.Path(name)
  killed = machine.out_of_memory_kills()
  status = supervisor.fork(log)
  if status is None:
    return None
  if status >= 0 and status != Exit.STALLED:
    log.unlink()
    return status
  written = log.read_text(errors="replace")
  if status == Exit.STALLED:
    told = f"what each of its threads did is in {log}"
  elif _GONE.search(written):
    status = Exit.HOST_LOST
    told = (
      "another process of the run has ended, so this one ends too. See what it "
      f"said, and start all again: they resume. JAX's own messages are in {log}"
    )
  elif status == -signal.SIGKILL and machine.out_of_memory_kills() > killed:
    log.unlink()
    status = Exit.OUT_OF_MEMORY
    told = (
      "the kernel ended it, as this host's memory is full. Let more hosts "
      "share the model; `drope plan` says what a save takes of each"
    )
  else:
    ended_by = signal.Signals(-status)
    status = 128 + ended_by
    told = (
      f"ended by {ended_by.name}; JAX's own messages are in {log}. Start all "
      "again: they resume"
    )
  terminal.say(f"drope train: {told}", stderr=True)
  return status


@contextlib.contextmanager
def joined(
  timeout_s: int,
  facts: rendezvous.Facts,
  judge: Callable[[Mapping[int, rendezvous.Facts]], str | None],
  require: Callable[[rendezvous.Hosts], None],
) -> Iterator[None]:
  """Joins the processes that `VARIABLES` name, or that JAX finds by itself.

  An exception in its body ends the process at once. JAX would wait for the
  others first, one of which may have died, and then abort.

  Args:
    timeout_s: how long to wait for all to start.
    facts: for `rendezvous.meet`.
    judge: for `rendezvous.meet`.
    require: checks all hosts against the devices that JAX then knows. It raises
      ValueError in all processes, or in none.

  Raises:
    exits.HostLost: some processes are missing.
    ValueError: variables are missing, processes disagree, or a host or its
      devices are unfit.
  """
  place = find(timeout_s)
  met = rendezvous.meet(place, facts, judge, timeout_s)
  own = rendezvous.own_hosts(place.host)
  jax.distributed.initialize(
    place.address,
    place.count,
    place.index,
    initialization_timeout=timeout_s,
    heartbeat_timeout_seconds=_HEARTBEAT_S,
    # With None, JAX reads its own variable, or listens at all addresses.
    coordinator_bind_address=place.address
    if own and rendezvous.BIND_ADDRESS not in os.environ
    else None,
  )
  try:
    _require_same_devices(jax.devices(), readiness.names(met))
    require(met)
  except ValueError:
    jax.distributed.shutdown()  # Together, so that none sees another vanish.
    raise
  except Exception as error:
    _end(error)
  try:
    yield
  except Exception as error:
    _end(error)


def find(timeout_s: int) -> rendezvous.Place:
  """Returns this process's place in the run.

  Raises:
    ValueError: variables are missing or wrong, or JAX finds no cluster.
  """
  found = {name: os.environ.get(name, "") for name in VARIABLES}
  if not any(found.values()):
    return _detect(timeout_s)
  if missing := [name for name, value in found.items() if not value]:
    raise ValueError(
      f"--distributed needs {', '.join(VARIABLES)} together, or none where "
      f"JAX knows its cluster, got no {', '.join(missing)}. Set all."
    )
  address, *numbers = found.values()
  if not all(number.isdecimal() for number in numbers):
    raise ValueError(
      f"{' and '.join(VARIABLES[1:])} must be whole numbers, got "
      f"{' and '.join(numbers)}. Correct them."
    )
  return rendezvous.Place(address, *map(int, numbers))


def _detect(timeout_s: int) -> rendezvous.Place:
  # Google Cloud's automatic firewall does not open JAX's default port
  # (jax-ml/jax#35905).
  if cloud_tpu_init.running_in_cloud_tpu_vm:
    os.environ.setdefault(_PORT, _TPU_PORT)
  try:
    address, count, index, _ = (
      # As jax.distributed.initialize does, which does not return the result.
      clusters.ClusterEnv.auto_detect_unset_distributed_params(
        *(None,) * 5, timeout_s
      )
    )
  except RuntimeError as error:
    raise ValueError(
      f"JAX could not tell its place in the cluster ({error}). Set "
      f"{', '.join(VARIABLES)}."
    ) from error
  if address is None:
    raise ValueError(
      "--distributed needs a cluster that JAX knows (Cloud TPU, Slurm, Open "
      f"MPI or Kubernetes), got none. Set {', '.join(VARIABLES)}."
    )
  return rendezvous.Place(address, count, index)


def _require_same_devices(
  devices: Sequence[jax.Device], host_names: Mapping[int, str]
) -> None:
  """Raises ValueError, in all processes, if their devices differ."""
  found: dict[int, dict[str, int]] = {}
  for device in devices:
    kinds = found.setdefault(device.process_index, {})
    kinds[device.device_kind] = kinds.get(device.device_kind, 0) + 1
  problem = agreement.differences(
    {index: {"devices": kinds} for index, kinds in sorted(found.items())},
    host_names,
  )
  if problem is not None:
    raise ValueError(problem)


def _end(error: Exception) -> None:
  if _GONE.search(str(error)):
    os.write(2, traceback.format_exc().encode())
    os.abort()  # As JAX does where it notices first.
  explained = mistakes.explain(error)
  if explained is None:
    traceback.print_exc()
  else:
    terminal.complain("drope train", explained)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(mistakes.status(error))
