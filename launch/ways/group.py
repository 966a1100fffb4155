"""Managed instance groups of Compute Engine: v5p and later.

A workload policy joins the machines of a group to one slice
(docs.cloud.google.com/compute/docs/tpus/create-tpu-mig-multi-host-slice).
"""

from collections.abc import Collection, Mapping
import json
from typing import Any

from launch import commands
from launch.commands import Command, Run
from launch.hosts import script
from launch.ways.way import Seen, Standing, Way, standing_of, worst

_IMAGES = "projects/ubuntu-os-accelerator-images/global/images/family"
_ASKED = 4
"""Machines that are asked why they have not begun, one command each."""
_COMING = {"PROVISIONING", "STAGING", "REPAIRING", None}


class Group(Way):
  """A group for each slice, from one template, under one workload policy."""

  @property
  def _policy(self) -> str:
    rented = self.rented
    return (
      f"projects/{rented.project}/regions/{rented.region}/resourcePolicies/"
      f"{rented.name}"
    )

  def create(self) -> list[Command]:
    """Source: gcloud reference, of each command.

    compute instance-templates create; compute instance-groups managed create.
    For flex-start its beta variant, whose bulk mode asks for all machines at
    once
    (docs.cloud.google.com/compute/docs/instance-groups/
    bulk-create-instances-in-mig).
    """
    rented, shape = self.rented, self.rented.shape
    policy = []
    if shape.hosts > 1:
      policy = [self.create_policy()]
    bulk = rented.capacity == "flex-start"
    return [
      *policy,
      self._template(),
      *(
        self.gcloud(
          *(("beta",) if bulk else ()),
          *("compute", "instance-groups", "managed", "create", name),
          *(f"--zone={rented.zone}", f"--template={rented.name}"),
          *(f"--size={shape.hosts}", f"--base-instance-name={name}"),
          "--default-action-on-vm-failure=do-nothing",
          *((f"--workload-policy={self._policy}",) if policy else ()),
          *(("--target-size-policy-mode=bulk",) if bulk else ()),
          settled_by=("exists",),
        )
        for name in rented.slice_names
      ),
    ]

  def _template(self) -> Command:
    rented, shape = self.rented, self.rented.shape
    interface = [
      f"{key}={value}"
      for key, value in (
        ("network", rented.network),
        ("subnet", rented.subnetwork),
        ("nic-type", "GVNIC"),
      )
      if value
    ]
    if rented.internal_ips:
      interface.append("no-address")
    disk = (
      f"auto-delete=yes,boot=yes,size={rented.disk_gb}GB,"
      f"type={shape.chip.disk},image={_IMAGES}/{shape.chip.image_family}"
    )
    return self.gcloud(
      *("compute", "instance-templates", "create", rented.name),
      f"--machine-type={shape.machine_type}",
      f"--network-interface={','.join(interface)}",
      f"--create-disk={disk}",
      *self._capacity(),
      "--maintenance-policy=TERMINATE",
      f"--service-account={rented.service_account}",
      "--scopes=cloud-platform",
      f"--labels={self.label}",
      f"--metadata={self.host_metadata}",
      f"--metadata-from-file=startup-script={script.SCRIPT}",
      settled_by=("exists",),
    )

  def _capacity(self) -> tuple[str, ...]:
    rented = self.rented
    ends = "--instance-termination-action=DELETE"
    # docs.cloud.google.com/tpu/docs/consume-reservation-compute
    reserved = (
      *("--provisioning-model=RESERVATION_BOUND", ends),
      "--reservation-affinity=specific",
      f"--reservation={rented.reservation}",
    )
    return {
      "on-demand": ("--provisioning-model=STANDARD",),
      # docs.cloud.google.com/tpu/docs/spot-compute
      "spot": (
        "--provisioning-model=SPOT",
        "--instance-termination-action=STOP",
      ),
      "reserved": reserved,
      "calendar": reserved,
      "flex-start": (
        *("--provisioning-model=FLEX_START", ends),
        *(
          f"--max-run-duration={rented.max_run_hours}h",
          "--reservation-affinity=none",
        ),
      ),
    }[rented.capacity]

  def delete(self) -> list[Command]:
    """Source: gcloud reference, the same groups' delete."""
    rented = self.rented
    return [
      *(
        self.gcloud(
          *("compute", "instance-groups", "managed", "delete", name),
          f"--zone={rented.zone}",
          settled_by=("missing",),
        )
        for name in rented.slice_names
      ),
      self.gcloud(
        *("compute", "instance-templates", "delete", rented.name),
        settled_by=("missing",),
      ),
      *([self.delete_policy()] if rented.shape.hosts > 1 else []),
    ]

  def observe(self, do: Run) -> Seen:
    """Source: REST reference, instanceGroupManagers.listManagedInstances."""
    return worst([self._one(name, do) for name in self.rented.slice_names])

  def _one(self, name: str, do: Run) -> Seen:
    try:
      found = json.loads(do(self._list(name)) or "[]")
    except commands.Failed as failed:
      if failed.kind == "missing":
        return Seen(Standing.ABSENT)
      raise
    for instance in found:
      if instance.get("instanceStatus") == "RUNNING":
        continue  # Its last attempt succeeded.
      attempt = instance.get("lastAttempt", {}).get("errors", {})
      for error in attempt.get("errors", []):
        said = f"{error.get('code')}: {error.get('message')}"
        return Seen(standing_of(said), said)
    actions = {i.get("currentAction", "NONE") for i in found}
    states = {i.get("instanceStatus") for i in found}
    if actions & {"DELETING", "ABANDONING"}:
      # Google itself deletes them when a reservation or flex-start ends.
      ends = self.rented.capacity not in ("on-demand", "spot")
      standing = Standing.PREEMPTED if ends else Standing.DELETING
      return Seen(standing, "DELETING")
    if len(found) < self.rented.shape.hosts:
      # A new group's list fills; one that was whole has lost a machine.
      return Seen(Standing.PROVISIONING, f"{len(found)} machines")
    if states == {"RUNNING"} and actions <= {"NONE", "VERIFYING"}:
      return Seen(Standing.ACTIVE, "RUNNING")
    if lost := states - _COMING - {"RUNNING"}:
      return Seen(Standing.PREEMPTED, ", ".join(sorted(lost)))
    if None in states and "CREATING" not in actions:
      return Seen(Standing.PREEMPTED, "a machine was deleted")
    if states == {None}:
      return Seen(Standing.WAITING, "CREATING")
    return Seen(Standing.PROVISIONING, "CREATING")

  def _list(self, name: str) -> Command:
    return self.gcloud(
      *("compute", "instance-groups", "managed", "list-instances", name),
      *(f"--zone={self.rented.zone}", "--format=json"),
    )

  def failed_starts(
    self, begun: Collection[str], do: Run
  ) -> list[Mapping[str, Any]]:
    machines = [
      instance["instance"].rpartition("/")[2]
      for name in self.rented.slice_names
      for instance in json.loads(do(self._list(name)) or "[]")
    ]
    late = [name for name in machines if name not in begun][:_ASKED]
    words = ("compute", "instances", "get-guest-attributes")
    return [
      record
      for name in late
      for record in self.guest_records(begun, do, *words, name)
    ]

  def ssh(self, index: int, machine: str, words: str | None) -> Command:
    """Source: gcloud reference, compute ssh."""
    return self.gcloud(
      *("compute", "ssh", machine, f"--zone={self.rented.zone}"),
      *((f"--command={words}",) if words else ()),
    )

  def left(self) -> list[Command]:
    """Source: gcloud reference, of each group's list."""
    name = self.rented.name
    return [
      self.gcloud(
        *("compute", *kind, "list"),
        *(f"--filter={where}", "--format=value(name)"),
      )
      for kind, where in (
        (("instance-groups", "managed"), f'name~"^{name}(-[0-9]+)?$"'),
        (("instance-templates",), f"properties.labels.{self.label}"),
        (("resource-policies",), f"name={name}"),
        (("instances",), f"labels.{self.label}"),
        (("disks",), f"labels.{self.label}"),
      )
    ]
