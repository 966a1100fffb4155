"""The three ways' commands are documented, and mean what they should."""

import dataclasses
import itertools
import json
import pathlib
import re

import jsonschema
import pytest

from launch import access, chips, commands, slice, ways
from launch.slice import Slice
from launch.ways.way import Standing
from tests.launch.fakes import documented

SLICES = sorted((pathlib.Path(slice.__file__).parent / "slices").glob("*.toml"))


def _rented(way, kind="v5p", capacity="spot", slices=1, **more) -> Slice:
  name = {"v4": "v4-16", "v5e": "v5e-16", "v6e": "v6e-16"}.get(
    kind, f"{kind}-16"
  )
  return Slice(
    **{
      "name": "mine",
      "slice": name,
      "way": way,
      "capacity": capacity,
      "zone": "us-east5-a",
      "project": "p",
      "bucket": "gs://b",
      "service_account": (
        "drope-tpu"
        if way == "jobset"
        else "drope-tpu@p.iam.gserviceaccount.com"
      ),
      "slices": slices,
      "reservation": "r" if capacity in ("reserved", "calendar") else None,
      "max_run_hours": 24 if capacity == "flex-start" else None,
      "cluster": "c" if way == "jobset" else None,
      "location": "us-east5" if way == "jobset" else None,
      **more,
    }
  )


EVERY = [
  _rented(way, kind, capacity, slices)
  for kind, chip in chips.CHIPS.items()
  for way, capacity, slices in itertools.product(
    chip.ways, slice.CAPACITIES, (1, 2)
  )
]


def _all_commands(rented: Slice) -> list[commands.Command]:
  way = ways.of(rented)
  return [
    *access.prepare(rented),
    *way.create(),
    *way.delete(),
    *way.left(),
    *_asked(way.observe),
    *_asked(lambda do: way.failed_starts((), do), {"instance": "z/m"}),
    way.ssh(0, "machine", None),
    way.ssh(1, "machine", "ls"),
  ]


def _asked(look, *machines) -> list[commands.Command]:
  """Returns the commands by which a way looks, which each find `machines`."""
  asked: list[commands.Command] = []

  def do(command):
    asked.append(command)
    listed = "list-instances" in command.args
    return json.dumps(machines) if machines and listed else ""

  look(do)
  return asked


def _id(rented):
  parts = (rented.way, rented.slice, rented.capacity, rented.slices)
  return "-".join(map(str, parts))


@pytest.mark.parametrize("rented", EVERY, ids=_id)
def test_every_flag_is_documented(rented):
  for command in _all_commands(rented):
    documented.parse(command.args)


def test_the_table_says_where_each_command_is_known_from():
  unknown = [
    n for n, e in documented.TABLE.items() if not {"read", "ran"} & e.keys()
  ]
  assert not unknown


def test_the_table_refuses_what_no_page_has():
  command = ["gcloud", "compute", "tpus", "queued-resources", "create", "x"]
  with pytest.raises(ValueError, match="no page has the flag --preemptible"):
    documented.parse([*command, "--preemptible"])
  with pytest.raises(ValueError, match="no page has the command"):
    documented.parse(["gcloud", "compute", "tpus", "make", "x"])


@pytest.mark.parametrize("rented", EVERY, ids=_id)
def test_nothing_secret_is_in_a_command(rented):
  words = " ".join(" ".join(c.args) for c in _all_commands(rented)).lower()
  for secret in ("token", "password", "api_key", "credential="):
    assert secret not in words.replace("get-credentials", "")


def _flags(command) -> dict[str, str]:
  return documented.parse(command.args)[2]


@pytest.mark.parametrize(
  ("way", "capacity", "wanted"),
  [
    ("queued", "on-demand", {}),
    ("queued", "spot", {"spot": ""}),
    ("queued", "reserved", {"reservation": "r"}),
    (
      "queued",
      "calendar",
      {"reservation": "r", "provisioning-model": "reservation-bound"},
    ),
    (
      "queued",
      "flex-start",
      {"provisioning-model": "flex-start", "max-run-duration": "24h"},
    ),
    ("group", "on-demand", {"provisioning-model": "STANDARD"}),
    ("group", "spot", {"provisioning-model": "SPOT"}),
    (
      "group",
      "reserved",
      {"provisioning-model": "RESERVATION_BOUND", "reservation": "r"},
    ),
    (
      "group",
      "flex-start",
      {"provisioning-model": "FLEX_START", "max-run-duration": "24h"},
    ),
    (
      "group",
      "calendar",
      {"provisioning-model": "RESERVATION_BOUND", "reservation": "r"},
    ),
    ("jobset", "spot", {"spot": "", "num-nodes": "2"}),
    (
      "jobset",
      "calendar",
      {"reservation": "r", "reservation-affinity": "specific"},
    ),
    (
      "jobset",
      "flex-start",
      {"flex-start": "", "num-nodes": "0", "max-run-duration": "86400s"},
    ),
  ],
)
def test_capacity_is_asked_for_by_its_flags(way, capacity, wanted):
  created = ways.of(_rented(way, capacity=capacity)).create()
  (asked,) = (
    flags
    for flags in map(_flags, created)
    if {"machine-type", "accelerator-type"} & flags.keys()
  )
  words = {"spot", "reserved", "reservation", "provisioning-model"}
  words |= {"max-run-duration", "flex-start"}
  got = {k: v for k, v in asked.items() if k in words | wanted.keys()}
  assert got == wanted


def test_a_group_a_slice_shares_template_and_policy():
  created = ways.of(_rented("group", slices=2)).create()
  names = [documented.parse(c.args)[1] for c in created]
  assert names == [["mine"], ["mine"], ["mine-0"], ["mine-1"]]
  for command in created[2:]:
    flags = _flags(command)
    assert flags["template"] == "mine" and flags["size"] == "2"
    assert flags["default-action-on-vm-failure"] == "do-nothing"
    assert flags["workload-policy"].endswith("/resourcePolicies/mine")


def test_slices_of_a_queued_resource_are_its_nodes():
  (created,) = ways.of(_rented("queued", "v5e", slices=2)).create()
  flags = _flags(created)
  assert (flags["node-count"], flags["node-prefix"]) == ("2", "mine")
  assert "node-id" not in flags


@pytest.mark.parametrize("way", ways.WAYS)
def test_delete_removes_what_create_makes(way):
  kind = "tpu7x" if way != "queued" else "v6e"
  rented = ways.of(_rented(way, kind, slices=2))

  def things(made):
    found = set()
    for command in made:
      name, words, _ = documented.parse(command.args)
      if name == "kubectl apply":
        manifest = json.loads(command.stdin)
        found.add(("jobset", manifest["metadata"]["name"]))
      elif name == "kubectl delete":
        found.add(tuple(words))
      elif "get-credentials" not in name:
        group = name.replace(" alpha", "").replace(" beta", "")
        group = group.replace(" workload-policy", "").rpartition(" ")[0]
        found.add((group, words[0]))
    return found

  assert things(rented.create()) == things(rented.delete())


def _jobset(**more):
  return json.loads(ways.of(_rented("jobset", **more)).manifest())


def _strict(schema):
  """Returns a schema that allows no field which it does not name.

  The API server refuses such a field; the published schema alone allows it.
  """
  if isinstance(schema, list):
    return [_strict(part) for part in schema]
  if not isinstance(schema, dict):
    return schema
  strict = {name: _strict(part) for name, part in schema.items()}
  if isinstance(schema.get("properties"), dict) and "type" in schema:
    strict["additionalProperties"] = False
  return strict


SCHEMA = jsonschema.Draft202012Validator(
  _strict(
    json.loads(
      (pathlib.Path(__file__).parent / "jobset_schema.json").read_text()
    )
  )
)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("kind", chips.CHIPS)
def test_every_manifest_fits_the_published_schema(kind, slices):
  SCHEMA.validate(_jobset(kind=kind, slices=slices))


@pytest.mark.parametrize(
  ("path", "value"),
  [
    (("spec", "suspended"), True),
    (("spec", "failurePolicy", "maxRestarts"), "0"),
    (("spec", "failurePolicy", "restartStrategy"), "Never"),
    (("spec", "replicatedJobs", 0, "template", "spec", "paralelism"), 2),
    (("spec", "replicatedJobs", 0, "name"), None),
  ],
)
def test_the_schema_refuses_a_wrong_field(path, value):
  manifest = _jobset()
  inner = manifest
  for part in path[:-1]:
    inner = inner[part]
  if value is None:
    del inner[path[-1]]
  else:
    inner[path[-1]] = value
  with pytest.raises(jsonschema.ValidationError):
    SCHEMA.validate(manifest)


def test_the_jobset_asks_for_a_pod_a_host_and_all_its_chips():
  manifest = _jobset(kind="tpu7x", slices=2)
  assert manifest["spec"]["failurePolicy"] == {"maxRestarts": 0}
  jobs = manifest["spec"]["replicatedJobs"]
  assert [job["replicas"] for job in jobs] == [1, 1]
  for number, job in enumerate(jobs):
    spec = job["template"]["spec"]
    assert spec["completions"] == spec["parallelism"] == 2
    assert (spec["backoffLimit"], spec["completionMode"]) == (0, "Indexed")
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
      "cloud.google.com/gke-tpu-accelerator": "tpu7x",
      "cloud.google.com/gke-tpu-topology": "2x2x2",
      "cloud.google.com/gke-nodepool": f"mine-{number}",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert {"name": "JOB_INDEX", "value": str(number)} in container["env"]


@pytest.mark.parametrize(
  ("slice_name", "placed"),
  [
    ("v6e-16", {"tpu-topology": "4x4"}),
    ("v6e-8", {}),
    ("tpu7x-16", {"placement-policy": "mine"}),
    ("tpu7x-8", {}),
  ],
)
def test_a_pool_names_its_topology_once(slice_name, placed):
  # GKE refuses both flags at once, and xpk gives a single host none.
  created = ways.of(_rented("jobset", slice=slice_name)).create()
  (flags,) = (f for f in map(_flags, created) if "machine-type" in f)
  both = {"tpu-topology", "placement-policy"}
  assert {k: v for k, v in flags.items() if k in both} == placed


@pytest.mark.parametrize("rented", EVERY, ids=_id)
def test_every_filter_is_one_that_gcloud_parses(rented):
  # `gcloud topic filters`: what is no plain word is quoted.
  for command in ways.of(rented).left():
    for word in command.args:
      if word.startswith("--filter="):
        term = word.removeprefix("--filter=")
        assert re.fullmatch(r'[\w.-]+(=[\w-]+|~"[^"]+")', term)


@pytest.mark.parametrize(
  ("said", "kind"),
  [
    # As gcloud 528.0.0 tells what each API answers.
    ("NOT_FOUND: Resource 'projects/p/x' was not found", "missing"),
    ("ResponseError: code=404, message=Not found: projects/p/x.", "missing"),
    ("gs://b/x not found: 404.", "missing"),
    (" - The resource 'projects/p/x' already exists", "exists"),
    (
      "ResponseError: code=409, message=Already exists: projects/p/x.",
      "exists",
    ),
    (
      "RESOURCE_EXHAUSTED: Quota limit 'TPUS' has been exceeded. Limit: 4.",
      "quota",
    ),
    (
      "ResponseError: code=403, message=Insufficient regional quota to satisfy "
      'request: resource "TPUS": request requires 4 and is short 4.',
      "quota",
    ),
    (
      'message=Required "container.clusters.get" permission(s) for "c".',
      "denied",
    ),
    (" - Required 'compute.x.get' permission for 'projects/p/x'", "denied"),
    ("Permission 'tpu.x.get' denied on 'x' (or it may not exist)", "denied"),
    ("forbidden: me does not have storage.objects.get access", "denied"),
    ("conditionNotMet: At least one of the pre-conditions ...", "changed"),
    (
      "RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Read requests' and "
      "limit 'Read requests per minute' of service 'tpu.googleapis.com'.",
      "busy",
    ),
    (
      "There was a problem refreshing your current auth tokens: "
      "Reauthentication failed. cannot prompt during non-interactive run.",
      "login",
    ),
    # As kubectl 1.32 says it.
    (
      "Error in configuration: context was not found for specified context: c",
      "context",
    ),
    ('error: context "gke_p_us-east5_c" does not exist', "context"),
    ("INVALID_ARGUMENT: Cloud TPU received a bad request.", "invalid"),
    (
      "ResponseError: code=400, message=Cluster is running incompatible "
      "operation operation-1-2.",
      "other",
    ),
    ("INTERNAL: an internal error", "other"),
  ],
)
def test_a_failure_is_of_a_kind(said, kind):
  assert commands.kind_of(f"ERROR: (gcloud.x.y) {said}") == kind


def _answers(*found):
  """Returns a runner that gives answers, or raises failures, in turn."""
  waiting = list(found)

  def do(command):
    answer = waiting.pop(0)
    if isinstance(answer, str):
      raise commands.Failed(command, answer)
    return json.dumps(answer)

  return do


@pytest.mark.parametrize(
  ("state", "error", "standing"),
  [
    ("CREATING", None, Standing.WAITING),
    ("ACCEPTED", None, Standing.WAITING),
    ("WAITING_FOR_RESOURCES", None, Standing.WAITING),
    ("PROVISIONING", None, Standing.PROVISIONING),
    ("ACTIVE", None, Standing.ACTIVE),
    ("SUSPENDING", None, Standing.PREEMPTED),
    ("SUSPENDED", None, Standing.PREEMPTED),
    ("DELETING", None, Standing.DELETING),
    ("FAILED", None, Standing.BROKEN),
    ("FAILED", "Quota limit 'TPUV5s' has been exceeded", Standing.QUOTA),
    ("FAILED", "There is no more capacity in the zone", Standing.STOCKOUT),
    ("A_NEW_STATE", None, Standing.BROKEN),
  ],
)
def test_a_queued_resources_state_is_understood(state, error, standing):
  found = {"state": {"state": state}}
  if error:
    found["state"]["failedData"] = {"error": {"message": error}}
  assert (
    ways.of(_rented("queued")).observe(_answers(found)).standing is standing
  )


def _machines(*states, action="NONE", error=None):
  found = [{"instanceStatus": s, "currentAction": action} for s in states]
  for machine in found:
    if machine["instanceStatus"] is None:
      del machine["instanceStatus"]
    if error:
      errors = [{"code": error, "message": error}]
      machine["lastAttempt"] = {"errors": {"errors": errors}}
  return found


@pytest.mark.parametrize(
  ("machines", "standing"),
  [
    (_machines(None, None, action="CREATING"), Standing.WAITING),
    (_machines("STAGING", None, action="CREATING"), Standing.PROVISIONING),
    (_machines("RUNNING", "RUNNING"), Standing.ACTIVE),
    (_machines("RUNNING", "STOPPING"), Standing.PREEMPTED),
    (_machines("RUNNING", "TERMINATED"), Standing.PREEMPTED),
    (_machines("RUNNING", None), Standing.PREEMPTED),
    (_machines("RUNNING"), Standing.PROVISIONING),
    (_machines("RUNNING", "RUNNING", action="DELETING"), Standing.DELETING),
    (
      _machines(None, None, error="ZONE_RESOURCE_POOL_EXHAUSTED"),
      Standing.STOCKOUT,
    ),
    (_machines(None, None, error="QUOTA_EXCEEDED"), Standing.QUOTA),
    (_machines(None, None, error="INTERNAL"), Standing.BROKEN),
  ],
)
def test_a_groups_machines_are_understood(machines, standing):
  found = ways.of(_rented("group")).observe(_answers(machines))
  assert found.standing is standing


_RUNNING = {"status": {"phase": "Running"}}


@pytest.mark.parametrize(
  ("answers", "standing"),
  [
    (["NOT_FOUND"], Standing.ABSENT),
    ([{"status": "PROVISIONING"}], Standing.PROVISIONING),
    ([{"status": "STOPPING"}], Standing.DELETING),
    (
      [{"status": "ERROR", "statusMessage": "GCE_STOCKOUT"}],
      Standing.STOCKOUT,
    ),
    ([{"status": "RUNNING"}, {}], Standing.PREEMPTED),
    (
      [{"status": "RUNNING"}, {"status": {}}, {"items": []}],
      Standing.WAITING,
    ),
    (
      [{"status": "RUNNING"}, {"status": {}}, {"items": [_RUNNING] * 2}],
      Standing.ACTIVE,
    ),
    (
      [{"status": "RUNNING"}, {"status": {}}, {"items": [_RUNNING]}],
      Standing.PROVISIONING,
    ),
    (
      [
        {"status": "RUNNING"},
        {"status": {"terminalState": "Failed"}},
        {"items": [{"status": {"phase": "Failed", "reason": "NodeShutdown"}}]},
      ],
      Standing.PREEMPTED,
    ),
    (
      [
        {"status": "RUNNING"},
        {"status": {"terminalState": "Failed"}},
        {"items": [{"status": {"phase": "Failed", "message": "exit 1"}}]},
      ],
      Standing.BROKEN,
    ),
  ],
)
def test_a_jobsets_pods_are_understood(answers, standing):
  found = ways.of(_rented("jobset")).observe(_answers(*answers))
  assert found.standing is standing


def test_a_machine_without_the_clusters_context_gets_it():
  unknown = "context was not found for specified context: c"
  rented = ways.of(_rented("jobset"))
  answers = [{"status": {}}, {"items": [_RUNNING] * 2}]
  answer = _answers({"status": "RUNNING"}, unknown, {}, *answers)
  asked = []

  def do(command):
    asked.append(command)
    return answer(command)

  assert rented.observe(do).standing is Standing.ACTIVE
  assert "get-credentials" in asked[2].args
  with pytest.raises(commands.Failed) as failed:
    rented.observe(_answers({"status": "RUNNING"}, unknown, {}, unknown))
  assert failed.value.kind in commands.LASTING
  words = [command.args for command in rented.delete()]
  assert "get-credentials" in words[0] and words[1][0] == "kubectl"


@pytest.mark.parametrize("way", ["queued", "group"])
def test_what_is_not_there_is_absent_and_what_is_refused_is_told(way):
  rented = ways.of(_rented(way))
  assert rented.observe(_answers("NOT_FOUND: x")).standing is Standing.ABSENT
  with pytest.raises(commands.Failed, match="roles that docs/tpu.md lists"):
    rented.observe(_answers("PERMISSION_DENIED: x"))


def test_if_one_of_several_groups_is_gone_all_are_created_anew():
  rented = ways.of(_rented("group", slices=2))
  running = _machines("RUNNING", "RUNNING")
  going = _machines("STOPPING", "STOPPING", action="DELETING")
  for other in ("NOT_FOUND: x", going):
    seen = rented.observe(_answers(running, other))
    assert seen.standing is Standing.PREEMPTED
  both = rented.observe(_answers(going, "NOT_FOUND: x"))
  assert both.standing is Standing.DELETING


def test_machines_that_google_deletes_after_their_time_are_preempted():
  going = _machines("STOPPING", "STOPPING", action="DELETING")
  flexible = ways.of(_rented("group", capacity="flex-start"))
  assert flexible.observe(_answers(going)).standing is Standing.PREEMPTED
  spot = ways.of(_rented("group"))
  assert spot.observe(_answers(going)).standing is Standing.DELETING


def test_an_old_error_of_a_running_machine_counts_no_more():
  running = _machines(
    "RUNNING", "RUNNING", error="ZONE_RESOURCE_POOL_EXHAUSTED"
  )
  seen = ways.of(_rented("group")).observe(_answers(running))
  assert seen.standing is Standing.ACTIVE


def test_a_failed_pod_says_its_last_line():
  ended = {"exitCode": 1, "message": "a traceback\nno network\n"}
  status = {
    "phase": "Failed",
    "containerStatuses": [{"state": {"terminated": ended}}],
  }
  failed = {"status": {"terminalState": "Failed"}}
  answers = [{"status": "RUNNING"}, failed, {"items": [{"status": status}]}]
  seen = ways.of(_rented("jobset")).observe(_answers(*answers))
  assert seen.said == "a pod failed: no network"


def test_what_a_start_up_script_could_not_write_elsewhere_is_found():
  def value(host):
    record = json.dumps({"host": host, "state": "failed", "said": "why"})
    return [{"namespace": "drope-launch", "key": "failed", "value": record}]

  rented = ways.of(_rented("queued", "v5e"))
  answer = _answers(value("w-0") + value("w-1"))
  found = rented.failed_starts({"w-0"}, answer)
  assert [record["host"] for record in found] == ["w-1"]
  rented = ways.of(_rented("group"))
  machines = [{"instance": f"zones/z/instances/m-{i}"} for i in range(3)]
  answer = _answers(machines, "NOT_FOUND: no such attribute", value("m-2"))
  found = rented.failed_starts({"m-0"}, answer)
  assert [record["host"] for record in found] == ["m-2"]


def test_a_host_that_is_none_is_refused():
  rented = _rented("queued", slices=2)
  assert ways.of(rented).place(3) == (1, 1)
  with pytest.raises(ValueError, match="must be 0 to 3, got 4"):
    ways.of(dataclasses.replace(rented)).ssh(4, "m", None)
