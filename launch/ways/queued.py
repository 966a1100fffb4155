"""A queued resource of the Cloud TPU API: v4 to v6e.

Google maintains this API, but does not develop it any further
(docs.cloud.google.com/tpu/docs/tpus-in-compute-engine). Grants of the TPU
Research Cloud use it.
"""

from collections.abc import Collection, Mapping
import json
from typing import Any

from launch import commands
from launch.commands import Command, Run
from launch.hosts import script
from launch.ways.way import Seen, Standing, Way, standing_of

# docs.cloud.google.com/tpu/docs/queued-resources: FAILED and SUSPENDED never
# change by themselves, and hold quota until they are deleted.
_STANDINGS = {
  "CREATING": Standing.WAITING,
  "ACCEPTED": Standing.WAITING,
  "WAITING_FOR_RESOURCES": Standing.WAITING,
  "PROVISIONING": Standing.PROVISIONING,
  "ACTIVE": Standing.ACTIVE,
  "SUSPENDING": Standing.PREEMPTED,
  "SUSPENDED": Standing.PREEMPTED,
  "FAILED": Standing.BROKEN,
  "DELETING": Standing.DELETING,
}


class Queued(Way):
  """One queued resource, with a node for each slice."""

  def create(self) -> list[Command]:
    """Source: gcloud reference, compute tpus queued-resources create.

    Flex-start and the name of a reservation need gcloud's alpha variant.
    """
    rented = self.rented
    nodes = (
      (f"--node-id={rented.name}",)
      if rented.slices == 1
      else (f"--node-count={rented.slices}", f"--node-prefix={rented.name}")
    )
    network = [
      f"--{option}={value}"
      for option, value in (
        ("network", rented.network),
        ("subnetwork", rented.subnetwork),
      )
      if value
    ]
    alpha = rented.capacity in ("reserved", "calendar", "flex-start")
    return [
      self.gcloud(
        *(("alpha",) if alpha else ()),
        *("compute", "tpus", "queued-resources", "create", rented.name),
        f"--zone={rented.zone}",
        *nodes,
        f"--accelerator-type={rented.shape.accelerator_type}",
        f"--runtime-version={rented.shape.chip.runtime_version}",
        *self._capacity(),
        f"--service-account={rented.service_account}",
        "--scopes=https://www.googleapis.com/auth/cloud-platform",
        f"--labels={self.label}",
        f"--metadata={self.host_metadata}",
        f"--metadata-from-file=startup-script={script.SCRIPT}",
        *network,
        *(("--internal-ips",) if rented.internal_ips else ()),
        "--async",
        settled_by=("exists",),
      )
    ]

  def _capacity(self) -> tuple[str, ...]:
    rented = self.rented
    return {
      "on-demand": (),
      "spot": ("--spot",),
      # docs.cloud.google.com/tpu/docs/consume-reservation
      "reserved": (f"--reservation={rented.reservation}",),
      "calendar": (
        f"--reservation={rented.reservation}",
        "--provisioning-model=reservation-bound",
      ),
      "flex-start": (
        "--provisioning-model=flex-start",
        f"--max-run-duration={rented.max_run_hours}h",
      ),
    }[rented.capacity]

  def delete(self) -> list[Command]:
    """Source: gcloud reference, compute tpus queued-resources delete.

    --force deletes the nodes first.
    """
    return [
      self.gcloud(
        *("compute", "tpus", "queued-resources", "delete", self.rented.name),
        *(f"--zone={self.rented.zone}", "--force", "--async"),
        settled_by=("missing",),
      )
    ]

  def observe(self, do: Run) -> Seen:
    """Source: REST reference, projects.locations.queuedResources."""
    try:
      said = do(
        self.gcloud(
          *("compute", "tpus", "queued-resources", "describe"),
          *(self.rented.name, f"--zone={self.rented.zone}", "--format=json"),
        )
      )
    except commands.Failed as failed:
      if failed.kind == "missing":
        return Seen(Standing.ABSENT)
      raise
    found = json.loads(said or "{}")
    state = found.get("state", {})
    name = state.get("state", "CREATING")
    standing = _STANDINGS.get(name, Standing.BROKEN)
    reason = json.dumps(state.get("failedData", {}).get("error", {}))
    if standing is Standing.BROKEN:
      standing = standing_of(reason)
      name = f"{name} {reason}"
    return Seen(standing, name)

  def failed_starts(
    self, begun: Collection[str], do: Run
  ) -> list[Mapping[str, Any]]:
    words = ("compute", "tpus", "tpu-vm", "get-guest-attributes")
    return [
      record
      for name in self.rented.slice_names
      for record in self.guest_records(begun, do, *words, name)
    ]

  def ssh(self, index: int, machine: str, words: str | None) -> Command:
    """Source: gcloud reference, compute tpus tpu-vm ssh."""
    number, worker = self.place(index)
    return self.gcloud(
      *("compute", "tpus", "tpu-vm", "ssh", self.rented.slice_names[number]),
      *(f"--zone={self.rented.zone}", f"--worker={worker}"),
      *((f"--command={words}",) if words else ()),
    )

  def left(self) -> list[Command]:
    """Source: gcloud reference, compute tpus queued-resources list."""
    return [
      self.gcloud(
        *("compute", "tpus", kind, "list", f"--zone={self.rented.zone}"),
        *(f"--filter={where}", "--format=value(name)"),
      )
      for kind, where in (
        ("queued-resources", f"tpu.nodeSpec.node.labels.{self.label}"),
        ("tpu-vm", f"labels.{self.label}"),
      )
    ]
