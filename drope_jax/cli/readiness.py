"""Checks the hosts of a run before the first step.

Each process describes its host at the rendezvous, where `obstacle` judges the
descriptions. Once JAX has joined the processes and devices are known, each
process calls `require` with all descriptions, so all come to the same result.
"""

import collections
from collections.abc import Iterator, Mapping
import shutil
import socket
import tempfile
from typing import Any
import uuid

from etils import epath
import jax

from drope_jax import sharding, tpus, trees
from drope_jax.checkpoint import files, store
from drope_jax.cli import agreement, machine, mistakes
from drope_jax.cli.rendezvous import Hosts
from drope_jax.data import paths
from drope_jax.model.config import ModelConfig
from drope_jax.plan import training as planning
from drope_jax.plan.slices import Slice
from drope_jax.train import preflight
from drope_jax.train import state as states
from drope_jax.train.phases import TrainPhase
from drope_jax.train.recipe import Recipe

_CLOCKS_S = 5.0
_MIB, _GIB = 2**20, 2**30
_SPARE_BYTES = 100 * _MIB
"""Of free disk, for JAX's logs and compiled programs."""


def describe(out: str) -> dict[str, Any]:
  """Returns a description of this process's host, in JSON types.

  Args:
    out: the run's folder; a file that tests it is removed again.
  """
  unwritable = None
  folder = _nearest(out)
  try:
    _try_to_write(folder)
  except Exception as error:
    unwritable = mistakes.explain(error)
    if unwritable is None:
      raise
  local = not paths.in_bucket(folder)
  return {
    "name": socket.gethostname(),
    "unwritable": unwritable,
    "memory": machine.available_memory(),
    "disk": shutil.disk_usage(folder).free if local else None,
    "spare": shutil.disk_usage(tempfile.gettempdir()).free,
  }


def names(hosts: Hosts) -> dict[int, str]:
  """Returns the name of each process's host."""
  return {index: host["name"] for index, host in hosts.items()}


def obstacle(hosts: Hosts, out: str) -> str | None:
  """Returns which host is unfit, and what to do; None: all are fit.

  Args:
    hosts: what `describe` returned, by process; after a rendezvous also with
      "ahead_s", by how many seconds its clock is ahead of process 0's.
    out: the run's folder.
  """
  for index, host in hosts.items():
    where = f"process {index} on {host['name']}"
    if host["unwritable"] is not None:
      return (
        f"Every host must be able to write to --out, but {where} is not: "
        f"{host['unwritable'].rstrip('.')}. Mount {out} there, or let its "
        "account write it."
      )
    if abs(ahead_s := host.get("ahead_s", 0.0)) > _CLOCKS_S:
      return (
        f"The hosts' clocks must agree within {_CLOCKS_S:.0f} s, got one of "
        f"{where} that is {abs(ahead_s):.0f} s "
        f"{'ahead of' if ahead_s > 0 else 'behind'} process 0's. Set it, by "
        "`chronyc makestep` say."
      )
    if host["spare"] < _SPARE_BYTES:
      return (
        f"Every host needs {_SPARE_BYTES // _MIB} MiB of disk for temporary "
        f"files, got {host['spare'] // _MIB} MiB for {where}. Free some, or "
        "set TMPDIR to a folder that has them."
      )
  return None


def require(
  recipe: Recipe, out: str, hosts: Hosts, topology: Slice | None
) -> None:
  """Checks the devices, and each host's memory and disk for a save.

  Every process calls it once JAX knows all devices; all raise the same.

  Args:
    recipe: to be run.
    out: the run's folder.
    hosts: what `describe` returned, by process.
    topology: the slice that the recipe was planned for; None: any.

  Raises:
    ValueError: the devices differ from that slice's, or a host has too little
      memory or disk for a save.
  """
  if topology is not None:
    _require_chips(topology, names(hosts))
  mesh = sharding.make_mesh(recipe.mesh)
  for phase, config in _trainings_left(recipe, out):
    held = planning.save_bytes(phase, config, mesh)
    saved = states.abstract_saved(phase, config, mesh)
    written = trees.num_bytes(jax.tree.leaves(saved))
    for name, group in _by_name(hosts):
      need, free = len(group) * held, min(host["memory"] for host in group)
      if free < need:
        raise ValueError(
          f"{phase.name}: a save takes {need / _GIB:.1f} GiB of memory on "
          f"{name}, got {free / _GIB:.1f} GiB that are free. End what else "
          "runs there, or let more hosts share the model."
        )
      if (free := group[0]["disk"]) is not None and free < written:
        raise ValueError(
          f"{phase.name}: a save takes {written / _GIB:.1f} GiB of disk in "
          f"{out}, got {free / _GIB:.1f} GiB that are free on {name}. Free "
          "some, or choose another --out."
        )


def _nearest(out: str) -> epath.Path:
  """Returns a run's folder, or where it will be made."""
  folder = files.absolute(out)
  if not paths.in_bucket(folder):
    while not folder.is_dir():
      folder = folder.parent
  return folder


def _try_to_write(folder: epath.Path) -> None:
  if not paths.in_bucket(folder):
    with tempfile.TemporaryFile(dir=folder) as file:
      file.write(b"x")
    return
  # A new run ignores files with this ending.
  trial = folder / f"{uuid.uuid4().hex}.tmp"
  trial.write_bytes(b"x")
  trial.unlink()


def _require_chips(topology: Slice, host_names: Mapping[int, str]) -> None:
  kinds = tpus.KINDS[topology.chip]
  devices = jax.devices()
  if len(devices) == topology.chips and all(
    device.device_kind in kinds for device in devices
  ):
    return
  found = collections.Counter(
    (device.process_index, device.device_kind) for device in devices
  )
  held = {
    index: " and ".join(
      f"{count} of {kind}" for (i, kind), count in found.items() if i == index
    )
    for index in host_names
  }
  raise ValueError(
    f"--topology {topology.name} has {topology.chips} devices of kind "
    f"{kinds[0]}, got {len(devices)}: {agreement.by_value(held, host_names)}. "
    "Start it on that slice, or name the slice that it is on."
  )


def _trainings_left(
  recipe: Recipe, out: str
) -> Iterator[tuple[TrainPhase, ModelConfig]]:
  """Yields each training phase that is not finished, with its model config."""
  saved = (store.finished_steps(out) or [0])[-1]
  ahead = preflight.phases(recipe, preflight.start_config(recipe))
  for (phase, config), end in zip(ahead, recipe.end_steps(), strict=True):
    if isinstance(phase, TrainPhase) and end > saved:
      yield phase, config


def _by_name(hosts: Hosts) -> list[tuple[str, list[Mapping[str, Any]]]]:
  """Returns the descriptions by the processes of each host, by its name."""
  groups = collections.defaultdict(list)
  for host in hosts.values():
    groups[host["name"]].append(host)
  return [*groups.items()]
