"""A JobSet on GKE, with its node pools: all chips.

Sources: docs.cloud.google.com/kubernetes-engine/docs/how-to/tpus;
jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2.
"""

import json
from typing import Any

from launch import commands
from launch.commands import Command, Run
from launch.ways import manifest
from launch.ways.way import Seen, Standing, Way, standing_of, worst

# container.googleapis.com's NodePool.Status.
_POOLS = {
  "PROVISIONING": Standing.PROVISIONING,
  "RUNNING": Standing.ACTIVE,
  "RUNNING_WITH_ERROR": Standing.ACTIVE,
  "RECONCILING": Standing.ACTIVE,
  "STOPPING": Standing.DELETING,
}
_SHUT_DOWN = {"NodeShutdown", "Terminated", "Preempted", "Preempting"}


class JobSet(Way):
  """A node pool for each slice, and one JobSet on all of them."""

  @property
  def _needs_policy(self) -> bool:
    return self.rented.shape.kind == "tpu7x" and self.rented.shape.hosts > 1

  def _pool(self, verb: str, name: str, *flags: str, settled_by=()) -> Command:
    rented = self.rented
    return self.gcloud(
      *("container", "node-pools", verb, name),
      *(f"--cluster={rented.cluster}", f"--location={rented.location}"),
      *flags,
      settled_by=settled_by,
    )

  def _kubectl(self, *words: str, stdin: str | None = None) -> Command:
    context = f"--context={self.rented.cluster_context}"
    return Command(("kubectl", context, *words), stdin)

  @property
  def _get_credentials(self) -> Command:
    """Makes the context that kubectl is told to use, on a new machine."""
    assert self.rented.cluster is not None  # `Slice` checks that.
    return self.gcloud(
      *("container", "clusters", "get-credentials", self.rented.cluster),
      f"--location={self.rented.location}",
    )

  def create(self) -> list[Command]:
    """Source: gcloud reference, container node-pools create; kubectl apply.

    The topology of several TPU7x hosts is in a workload policy
    (docs.cloud.google.com/kubernetes-engine/docs/concepts/tpu-ironwood). A pool
    of one host names no topology.
    """
    rented, shape = self.rented, self.rented.shape
    policy = []
    placed = (f"--tpu-topology={shape.topology}",) if shape.hosts > 1 else ()
    if self._needs_policy:
      policy = [self.create_policy()]
      placed = (f"--placement-policy={rented.name}",)
    return [
      self._get_credentials,
      *policy,
      *(
        self._pool(
          "create",
          name,
          f"--node-locations={rented.zone}",
          f"--machine-type={shape.machine_type}",
          *placed,
          *self._capacity(),
          *(f"--node-labels={self.label}", "--scopes=cloud-platform"),
          *("--workload-metadata=GKE_METADATA", "--async"),
          settled_by=("exists",),
        )
        for name in rented.slice_names
      ),
      self._kubectl("apply", "--filename=-", stdin=self.manifest()),
    ]

  def _capacity(self) -> tuple[str, ...]:
    rented, hosts = self.rented, self.rented.shape.hosts
    seconds = (rented.max_run_hours or 0) * 3600
    # docs.cloud.google.com/kubernetes-engine/docs/how-to/tpu-calendar-mode
    reserved = (
      *(f"--num-nodes={hosts}", "--reservation-affinity=specific"),
      f"--reservation={rented.reservation}",
    )
    return {
      "on-demand": (f"--num-nodes={hosts}",),
      "spot": (f"--num-nodes={hosts}", "--spot"),
      "reserved": reserved,
      "calendar": reserved,
      # As xpk does: AI-Hypercomputer/xpk, src/xpk/core/capacity.py. The API
      # reads the duration, in seconds (NodeConfig.maxRunDuration).
      "flex-start": (
        *("--num-nodes=0", "--flex-start", "--enable-autoscaling"),
        *("--min-nodes=0", f"--max-nodes={hosts}", "--location-policy=ANY"),
        *("--reservation-affinity=none", "--no-enable-autorepair"),
        f"--max-run-duration={seconds}s",
      ),
    }[rented.capacity]

  def manifest(self) -> str:
    return json.dumps(manifest.describe(self.rented), indent=2)

  def delete(self) -> list[Command]:
    """Source: kubectl and gcloud reference, delete of each."""
    rented = self.rented
    return [
      self._get_credentials,
      self._kubectl(
        *("delete", "jobset", rented.name),
        *("--ignore-not-found=true", "--wait=false"),
      ),
      *(
        self._pool("delete", name, "--async", settled_by=("missing",))
        for name in rented.slice_names
      ),
      *([self.delete_policy()] if self._needs_policy else []),
    ]

  def observe(self, do: Run) -> Seen:
    """Source: container.googleapis.com's NodePool; kubernetes' Pod status."""
    pools = worst([self._observe_pool(n, do) for n in self.rented.slice_names])
    if pools.standing is not Standing.ACTIVE:
      return pools
    try:
      return self._observe_pods(do)
    except commands.Failed as failed:
      if failed.kind != "context":
        raise
    do(self._get_credentials)
    return self._observe_pods(do)

  def _observe_pool(self, name: str, do: Run) -> Seen:
    try:
      found = json.loads(
        do(self._pool("describe", name, "--format=json")) or "{}"
      )
    except commands.Failed as failed:
      if failed.kind == "missing":
        return Seen(Standing.ABSENT)
      raise
    status = found.get("status", "PROVISIONING")
    said = found.get("statusMessage", "")
    if status == "ERROR" or (status == "RUNNING_WITH_ERROR" and said):
      return Seen(standing_of(said), said)
    return Seen(_POOLS.get(status, Standing.BROKEN), status)

  def _observe_pods(self, do: Run) -> Seen:
    sets = json.loads(
      do(
        self._kubectl(
          *("get", "jobset", self.rented.name),
          *("--ignore-not-found=true", "--output=json"),
        )
      )
      or "{}"
    )
    if not sets:  # Its node pools cost as before.
      return Seen(Standing.PREEMPTED, "the JobSet is gone")
    pods = json.loads(
      do(
        self._kubectl(
          *("get", "pods", f"--selector={self.label}", "--output=json")
        )
      )
      or "{}"
    ).get("items", [])
    if sets.get("status", {}).get("terminalState") == "Failed":
      return _why_it_failed(pods)
    phases = [pod["status"].get("phase") for pod in pods]
    running = phases.count("Running")
    if running == len(pods) == self.rented.hosts:
      return Seen(Standing.ACTIVE, "Running")
    if running:
      return Seen(Standing.PROVISIONING, f"{running} pods run")
    return Seen(Standing.WAITING, "Pending")

  def ssh(self, index: int, machine: str, words: str | None) -> Command:
    """Source: kubectl reference, exec; a pod's machine is its name."""
    return self._kubectl(
      *(
        "exec",
        "--stdin",
        "--tty",
        machine,
        f"--container={manifest.CONTAINER}",
        "--",
      ),
      *(("sh", "-c", words) if words else ("bash",)),
    )

  def left(self) -> list[Command]:
    """Source: kubectl reference, get; gcloud, container node-pools list."""
    rented = self.rented
    return [
      self._kubectl(
        *("get", "jobsets,pods", f"--selector={self.label}", "--output=name")
      ),
      self.gcloud(
        *("container", "node-pools", "list", f"--cluster={rented.cluster}"),
        f"--location={rented.location}",
        f"--filter=config.labels.{self.label}",
        "--format=value(name)",
      ),
    ]


def _why_it_failed(pods: list[dict[str, Any]]) -> Seen:
  """Returns whether a node was taken back, or a container ended by itself."""
  ended = [pod["status"] for pod in pods if pod["status"]["phase"] == "Failed"]
  if not ended or any(map(_was_disrupted, ended)):
    # The pods of a node that is gone are gone, too.
    return Seen(Standing.PREEMPTED, "a node was taken back")
  return Seen(Standing.BROKEN, f"a pod failed: {_last_words(ended[0])}")


def _was_disrupted(status: dict[str, Any]) -> bool:
  return status.get("reason") in _SHUT_DOWN or any(
    condition["type"] == "DisruptionTarget" and condition["status"] == "True"
    for condition in status.get("conditions", [])
  )


def _last_words(status: dict[str, Any]) -> str:
  """Returns the last line of a failed pod's log, or Kubernetes' reason."""
  for container in status.get("containerStatuses", []):
    ended = container.get("state", {}).get("terminated", {})
    if lines := ended.get("message", "").strip().splitlines():
      return lines[-1]
  return status.get("message") or status.get("reason") or "it does not say why"
