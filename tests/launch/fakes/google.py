"""Fake programs gcloud and kubectl, for a project on disk.

They refuse commands and flags that no page documents.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import sys
from typing import Any

FOLDER = pathlib.Path(__file__).parents[3]
sys.path.insert(0, str(FOLDER))

from launch import chips  # noqa: E402
from tests.launch.fakes import cloud, documented, storage  # noqa: E402

_SAID = {
  cloud.STOCKOUT: "ZONE_RESOURCE_POOL_EXHAUSTED: no more capacity in the zone",
  cloud.QUOTA: "Quota 'TPUS' exceeded. Limit: 0.0 in region r",
  cloud.FAILED: "INTERNAL: an internal error occurred",
}
_EXISTS = "ERROR: ALREADY_EXISTS: it already exists"
_MISSING = "ERROR: NOT_FOUND: it was not found"


class Refusal(Exception):
  """An error that the program prints."""


def main(args: list[str]) -> None:
  """Runs one command."""
  project = cloud.Cloud(pathlib.Path(os.environ["FAKE_CLOUD"]))
  with (project.folder / "commands.jsonl").open("a") as log:
    log.write(json.dumps(args) + "\n")
  name, words, flags = documented.parse(args)
  if name.startswith("gcloud storage") and "buckets" not in name:
    storage.run(name, words, flags)
    return
  plain = name.replace(" alpha", "").replace(" beta", "")
  kind, _, verb = plain.rpartition(" ")
  if plain == "gcloud compute resource-policies create workload-policy":
    kind, verb = "gcloud compute resource-policies", "create"
  if kind == "kubectl" or verb in ("get-credentials", "enable"):
    _kubectl(project, verb, words, flags)
    return
  key = f"{kind.removeprefix('gcloud ')}/{words[0] if words else ''}"
  if verb == "create":
    _create(project, key, flags)
  elif verb == "delete":
    _delete(project, key)
  elif verb in ("describe", "list-instances"):
    print(json.dumps(_described(project, key)))
  elif verb == "get-guest-attributes":
    print(json.dumps(_guest_attributes(project, words[0], flags["query-path"])))
  elif verb == "list":
    for found in project.names():
      if found.startswith(key):
        print(found.partition("/")[2])
  elif verb != "add-iam-policy-binding":
    raise Refusal(f"the fake has no {name}")


def _guest_attributes(
  project: cloud.Cloud, name: str, path: str
) -> list[dict[str, str]]:
  """Returns values of one machine of a group, or of all those of a TPU."""
  found, node = [], f"compute tpus queued-resources/{name}"
  for host in project.hosts():
    file = host / cloud.METADATA / "instance/guest-attributes" / path
    asked = host.name == name or (host / "of").read_text() == node
    if asked and file.exists():
      namespace, _, key = path.partition("/")
      value = file.read_text()
      found.append({"namespace": namespace, "key": key, "value": value})
  if not found:
    raise Refusal(_MISSING)
  return found


def _create(project: cloud.Cloud, key: str, flags: dict[str, str]) -> None:
  with project.state() as state:
    if key in state["resources"]:
      raise Refusal(_EXISTS)
    script = state["script"]
    if _boots(key) and script.get("create_fails"):
      raise Refusal(_SAID[script["create_fails"].pop(0)])
    coming = [cloud.ACTIVE]
    if _boots(key) and script.get("creates"):
      coming = list(script["creates"][0])
      del script["creates"][0]
    state["resources"][key] = {
      "standing": cloud.WAITING,
      "coming": coming,
      "flags": flags,
    }


def _boots(key: str) -> bool:
  return not key.startswith(
    ("compute resource-policies", "compute instance-templates", "iam", "stor")
  )


def _delete(project: cloud.Cloud, key: str) -> None:
  with project.state() as state:
    if key not in state["resources"]:
      raise Refusal(_MISSING)
    failures = state["script"].get("delete_fails", [])
    if _boots(key) and failures:
      raise Refusal(failures.pop(0))
    del state["resources"][key]
  project.forget(key)


def _moved_on(project: cloud.Cloud, key: str) -> dict[str, Any]:
  """Returns a resource in its next state; boots its hosts once it is active."""
  with project.state() as state:
    if key not in state["resources"]:
      raise Refusal(_MISSING)
    resource = state["resources"][key]
    if resource["coming"]:
      resource["standing"] = resource["coming"].pop(0)
    boots = resource["standing"] == cloud.ACTIVE and not resource.get("booted")
    if boots:
      resource["booted"] = True
    found = dict(resource)
    templates = {
      k.partition("/")[2]: v["flags"]
      for k, v in state["resources"].items()
      if k.startswith("compute instance-templates/")
    }
  if boots:
    _boot(project, key, found["flags"], templates)
  return found


def _boot(project, key, flags, templates) -> None:
  kind, _, name = key.partition("/")
  if kind == "compute tpus queued-resources":
    nodes = int(flags.get("node-count", 1))
    hosts = _hosts_of(flags["accelerator-type"])
    for number in range(nodes):
      for worker in range(hosts):
        extra = {"agent-worker-number": str(worker)}
        if nodes > 1:
          extra["tpu-env"] = f"MEGASCALE_SLICE_ID: '{number}'\n"
        machine = f"{name}-{number}-w{worker}"
        _boot_machine(project, key, machine, number, worker, flags, extra)
  elif kind == "compute instance-groups managed":
    with project.state() as state:
      number = sorted(
        k
        for k, v in state["resources"].items()
        if k.startswith(f"{kind}/")
        and v["flags"]["template"] == flags["template"]
      ).index(key)
    for worker in range(int(flags["size"])):
      extra = {
        "worker-id": str(worker),
        "created-by": f"projects/1/zones/z/instanceGroupManagers/{name}",
      }
      template = templates[flags["template"]]
      machine = f"{name}-{worker}"
      _boot_machine(project, key, machine, number, worker, template, extra)


def _hosts_of(accelerator: str) -> int:
  prefix, _, count = accelerator.rpartition("-")
  kinds = {c.accelerator_type: name for name, c in chips.CHIPS.items()}
  return chips.parse(f"{kinds[prefix]}-{count}").hosts


def _boot_machine(project, key, name, number, worker, flags, extra) -> None:
  script = flags["metadata-from-file"].removeprefix("startup-script=")
  attributes = dict(w.split("=") for w in flags["metadata"].split(","))
  project.boot(
    key,
    {
      "name": name,
      "slice": number,
      "worker": worker,
      "command": ["python3", script],
      "variables": {},
      "metadata": attributes | extra,
    },
  )


def _described(project: cloud.Cloud, key: str) -> Any:
  found = _moved_on(project, key)
  standing = found["standing"]
  if key.startswith("compute tpus"):
    return _queued(standing)
  if key.startswith("compute instance-groups"):
    return _group(project, key, standing, int(found["flags"]["size"]))
  return _pool(standing)


def _queued(standing: str) -> dict[str, Any]:
  state = {
    cloud.WAITING: "WAITING_FOR_RESOURCES",
    cloud.PROVISIONING: "PROVISIONING",
    cloud.ACTIVE: "ACTIVE",
    cloud.PREEMPTED: "SUSPENDED",
    cloud.DELETING: "DELETING",
  }.get(standing, "FAILED")
  found: dict[str, Any] = {"state": state}
  if state == "FAILED":
    found["failedData"] = {"error": {"code": 8, "message": _SAID[standing]}}
  return {"state": found}


def _group(project, key, standing, size) -> list[dict[str, Any]]:
  name = key.partition("/")[2]
  found = [
    {"instance": f"zones/z/instances/{name}-{i}", "currentAction": "NONE"}
    for i in range(size)
  ]
  for index, instance in enumerate(found):
    if standing in (cloud.WAITING, cloud.PROVISIONING):
      instance["currentAction"] = "CREATING"
      if standing == cloud.PROVISIONING:
        instance["instanceStatus"] = "STAGING"
    elif standing in _SAID:
      code, _, message = _SAID[standing].partition(": ")
      error = {"code": code, "message": message}
      instance["lastAttempt"] = {"errors": {"errors": [error]}}
    elif standing == cloud.PREEMPTED and index == size - 1:
      instance["instanceStatus"] = "STOPPING"
    elif standing == cloud.DELETING:
      instance["currentAction"] = "DELETING"
    else:
      instance["instanceStatus"] = "RUNNING"
  return found


def _pool(standing: str) -> dict[str, Any]:
  status = {
    cloud.WAITING: "PROVISIONING",
    cloud.PROVISIONING: "PROVISIONING",
    cloud.DELETING: "STOPPING",
  }.get(standing, "RUNNING")
  if standing in _SAID:
    return {"status": "ERROR", "statusMessage": _SAID[standing]}
  return {"status": status}


def _kubectl(project, verb, words, flags) -> None:
  if verb == "apply":
    with project.state() as state:
      manifest = json.load(sys.stdin)
      name = manifest["metadata"]["name"]
      state["resources"].setdefault(
        f"jobset/{name}", {"standing": "new", "manifest": manifest}
      )
  elif verb == "delete":
    with project.state() as state:
      state["resources"].pop(f"jobset/{words[1]}", None)
    project.forget(f"jobset/{words[1]}")
  elif verb == "get" and words[0] == "jobset":
    found = _jobset(project, words[1])
    if found is not None:
      print(json.dumps(found))
  elif verb == "get" and words[0] == "pods":
    print(json.dumps({"items": _pods(project)}))
  elif verb == "get":
    for name in project.names():
      if name.startswith("jobset/"):
        print(name)


def _jobset(project, name) -> dict[str, Any] | None:
  with project.state() as state:
    found = state["resources"].get(f"jobset/{name}")
    if found is None:
      return None
    pools = [
      v
      for k, v in state["resources"].items()
      if k.startswith("container node-pools/")
    ]
    ready = pools and all(p["standing"] == cloud.ACTIVE for p in pools)
    boots = ready and found["standing"] == "new"
    if boots:
      found["standing"] = cloud.ACTIVE
    found = dict(found)
  if boots:
    _boot_pods(project, name, found["manifest"])
  failed = any(p["status"]["phase"] == "Failed" for p in _pods(project))
  return {"status": {"terminalState": "Failed"} if failed else {}}


def _boot_pods(project, name, manifest: Mapping[str, Any]) -> None:
  for number, job in enumerate(manifest["spec"]["replicatedJobs"]):
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    found = container["env"]
    variables = {e["name"]: e["value"] for e in found if "value" in e}
    for worker in range(spec["completions"]):
      project.boot(
        f"jobset/{name}",
        {
          "name": f"{name}-{job['name']}-0-{worker}",
          "slice": number,
          "worker": worker,
          "command": container["command"],
          "variables": variables | {"TPU_WORKER_ID": str(worker)},
          "metadata": {},
        },
      )


def _pods(project) -> list[dict[str, Any]]:
  with project.state() as state:
    preempted = any(
      v["standing"] == cloud.PREEMPTED
      for k, v in state["resources"].items()
      if k.startswith("jobset/")
    )
  hosts = [h for h in project.hosts() if (h / "boot.pid").exists()]
  return [{"status": _pod_status(host, preempted)} for host in hosts]


def _pod_status(host: pathlib.Path, preempted: bool) -> dict[str, Any]:
  if preempted:
    return {"phase": "Failed", "reason": "NodeShutdown"}
  if cloud.alive(int((host / "boot.pid").read_text())):
    return {"phase": "Running"}
  # As terminationMessagePolicy FallbackToLogsOnError has it.
  ended = {"exitCode": 1, "message": (host / "boot.log").read_text()[-2048:]}
  return {
    "phase": "Failed",
    "containerStatuses": [{"state": {"terminated": ended}}],
  }


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except (LookupError, Refusal, ValueError) as refused:
    sys.exit(str(refused))
