"""Which slice this host belongs to, and its number there.

A machine reads its metadata; a pod reads what GKE sets in its environment.
"""

import dataclasses
import os
import re
import socket

from launch.hosts import bootstrap


@dataclasses.dataclass(frozen=True)
class Place:
  """The place of a host.

  Attributes:
    slice: the number of its slice.
    worker: its number in the slice, by the TPU's own count.
    host: the name of the machine or pod.
    address: at which the other hosts reach it.
  """

  slice: int
  worker: int
  host: str
  address: str

  @property
  def name(self) -> str:
    """SLICE-WORKER, which names the host's objects in the bucket."""
    return f"{self.slice}-{self.worker}"


def find(slices: int, hosts_of_slice: int) -> Place:
  """Returns this host's place.

  Args:
    slices: how many there are.
    hosts_of_slice: how many each has.

  Raises:
    ValueError: neither metadata nor environment has it.
  """
  if os.environ.get(bootstrap.VARIABLE):
    return _of_pod()
  return _of_machine(slices, hosts_of_slice)


def _of_pod() -> Place:
  """Source of TPU_WORKER_ID: kubernetes-engine/docs/concepts/plan-tpus."""
  worker = os.environ.get("TPU_WORKER_ID") or os.environ.get(
    "JOB_COMPLETION_INDEX"
  )
  return Place(
    int(os.environ.get("JOB_INDEX", "0")),
    _number(worker, "TPU_WORKER_ID"),
    socket.gethostname(),
    os.environ["POD_IP"],
  )


def _of_machine(slices: int, hosts_of_slice: int) -> Place:
  """Reads the attributes that Google sets.

  agent-worker-number on a machine of the Cloud TPU API, worker-id on one of a
  group, and on both tpu-env with a variable in each line.
  """
  environment = _tpu_env()
  worker = (
    _attribute("agent-worker-number")
    or _attribute("worker-id")
    or environment.get("WORKER_ID")
    or ("0" if hosts_of_slice == 1 else None)
  )
  return Place(
    _slice_of_machine(environment) if slices > 1 else 0,
    _number(worker, "agent-worker-number, worker-id or WORKER_ID in tpu-env"),
    bootstrap.metadata("instance/name") or socket.gethostname(),
    bootstrap.metadata("instance/network-interfaces/0/ip") or "",
  )


def _slice_of_machine(environment: dict[str, str]) -> int:
  if found := environment.get("MEGASCALE_SLICE_ID"):
    return int(found)
  # projects/N/zones/Z/instanceGroupManagers/NAME-1
  group = _attribute("created-by") or ""
  found = re.search(r"-(\d+)$", group)
  return _number(found and found[1], "MEGASCALE_SLICE_ID or created-by")


def _number(found: str | None, names: str) -> int:
  if found is None or not found.isdecimal():
    raise ValueError(
      f"A host needs its number from Google Cloud, got {found!r} for {names}. "
      "Create the slice anew, or rent it in another way."
    )
  return int(found)


def _attribute(name: str) -> str | None:
  return bootstrap.metadata(f"instance/attributes/{name}")


def _tpu_env() -> dict[str, str]:
  """Lines are like MEGASCALE_NUM_SLICES: '2'."""
  found = {}
  for line in (_attribute("tpu-env") or "").splitlines():
    name, colon, value = line.partition(":")
    if colon:
      found[name.strip()] = value.strip().strip("'")
  return found
