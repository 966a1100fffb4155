"""The environment variables of a training on a host, with their reasons."""

import os
from typing import NamedTuple

from launch.hosts.place import Place

PORT = "8476"


class Flag(NamedTuple):
  """An environment variable.

  Attributes:
    name: of the variable.
    value: with {fields} that `environment` fills in.
    reason: why it is set, with the source.
    several_slices: whether only runs on several slices need it.
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
    "One process on each host. JAX would read metadata that machines of a "
    "group may lack.",
  ),
  Flag(
    "JAX_PROCESS_ID",
    "{process}",
    "The TPU's own worker number, so that neighbors in the slice are "
    "neighbors in the mesh.",
  ),
  Flag(
    "DROPE_RENDEZVOUS_TOKEN",
    "{token}",
    "Keeps processes of other runs out of the rendezvous. It is made for each "
    "run, and read from the bucket.",
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
    "Where slices meet (cloud.google.com/tpu/docs/multislice-introduction). "
    "Set for all three ways of renting, though two of them set it themselves.",
    several_slices=True,
  ),
  Flag("MEGASCALE_NUM_SLICES", "{slices}", "Likewise.", several_slices=True),
  Flag("MEGASCALE_SLICE_ID", "{slice}", "Likewise.", several_slices=True),
  Flag(
    "LIBTPU_INIT_ARGS",
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true "
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
    "Overlaps the all-reduce between slices with the backward pass: MaxText's "
    "flags for data parallelism over several slices "
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
  """Returns the variables of `TABLE` for one host.

  Args:
    place: of the host.
    coordinator: the address of the first host of the first slice.
    slices: how many there are.
    hosts_of_slice: how many each has.
    token: of the run.
    root: the folder of all files on the host.
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
