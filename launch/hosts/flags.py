"""Every variable that a training is given on a host, each with its reason."""

import os
from typing import NamedTuple

from launch.hosts.place import Place

PORT = "8476"


class Flag(NamedTuple):
  """A variable of the environment.

  Attributes:
    name: its.
    value: with {fields} that `environment` fills in.
    reason: why it is set, and where that is written.
    several_slices: whether it is only for those.
  """

  name: str
  value: str
  reason: str
  several_slices: bool = False


TABLE = (
  Flag(
    "JAX_COORDINATOR_ADDRESS",
    "{coordinator}:{port}",
    f"The first host. Google's firewall opens {PORT} between hosts, and not "
    "JAX's own 8482 (jax-ml/jax#35905); JAX_COORDINATOR_PORT overrides it.",
  ),
  Flag(
    "JAX_NUM_PROCESSES",
    "{processes}",
    "One process a host. JAX would ask metadata that a group's machines may "
    "lack.",
  ),
  Flag(
    "JAX_PROCESS_ID",
    "{process}",
    "By the TPU's own count, so that neighbours on the wire are neighbours in "
    "the mesh.",
  ),
  Flag(
    "DROPE_RENDEZVOUS_TOKEN",
    "{token}",
    "Keeps other runs' processes out of the meeting; made for each run, and "
    "read from the bucket.",
  ),
  Flag(
    "JAX_COMPILATION_CACHE_DIR",
    "{root}/compiled",
    "A restart on the same host does not compile again.",
  ),
  Flag(
    "PYTHONUNBUFFERED",
    "1",
    "The log has a crash's last lines.",
  ),
  Flag(
    "MEGASCALE_COORDINATOR_ADDRESS",
    "{coordinator}",
    "Where slices meet (cloud.google.com/tpu/docs/multislice-introduction); "
    "set for all ways alike, though two of them set it themselves.",
    several_slices=True,
  ),
  Flag("MEGASCALE_NUM_SLICES", "{slices}", "Likewise.", several_slices=True),
  Flag("MEGASCALE_SLICE_ID", "{slice}", "Likewise.", several_slices=True),
  Flag(
    "LIBTPU_INIT_ARGS",
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true "
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
    "Gradients cross the data center's network while the backward pass still "
    "computes: MaxText's flags for replicas on several slices "
    "(benchmarks/xla_flags_library.py).",
    several_slices=True,
  ),
)


def environment(
  place: Place,
  coordinator: str,
  slices: int,
  hosts_of_slice: int,
  token: str,
  root: str,
) -> dict[str, str]:
  """Returns the table's variables for one host.

  Args:
    place: the host's.
    coordinator: the address of the first host of the first slice.
    slices: how many.
    hosts_of_slice: in each.
    token: the run's.
    root: where all lies on the host.
  """
  fields = {
    "coordinator": coordinator,
    "port": os.environ.get("JAX_COORDINATOR_PORT", PORT),
    "processes": slices * hosts_of_slice,
    "process": place.slice * hosts_of_slice + place.worker,
    "slices": slices,
    "slice": place.slice,
    "token": token,
    "root": root,
  }
  return {
    flag.name: flag.value.format(**fields)
    for flag in TABLE
    if slices > 1 or not flag.several_slices
  }
