"""A host knows its place, its variables, and what it has done already."""

import ast
import hashlib
import http.client
import io
import json
import subprocess
import sys
from urllib import error, request
import zipfile

import pytest

from launch.hosts import bootstrap, flags, place, script, training
from launch.hosts.place import Place

MACHINE = {
  "instance/name": "vm-7",
  "instance/network-interfaces/0/ip": "10.0.0.7",
}


@pytest.fixture
def metadata(monkeypatch):
  """What the metadata server answers."""
  found = dict(MACHINE)
  monkeypatch.delenv(bootstrap.VARIABLE, raising=False)
  monkeypatch.setattr(bootstrap, "metadata", found.get)
  return found


def _attribute(name):
  return f"instance/attributes/{name}"


@pytest.mark.parametrize(
  ("attributes", "slices", "wanted"),
  [
    ({"agent-worker-number": "3"}, 1, (0, 3)),
    ({"worker-id": "2"}, 1, (0, 2)),
    ({"tpu-env": "WORKER_ID: '1'\nZONE: 'z'"}, 1, (0, 1)),
    (
      {"agent-worker-number": "3", "tpu-env": "MEGASCALE_SLICE_ID: '1'"},
      2,
      (1, 3),
    ),
    (
      {"worker-id": "0", "created-by": "p/instanceGroupManagers/v5p-128-1"},
      2,
      (1, 0),
    ),
    ({"worker-id": "0", "created-by": "p/x/v5p-128"}, 1, (0, 0)),
  ],
)
def test_a_machines_place_is_in_its_metadata(
  metadata, attributes, slices, wanted
):
  metadata |= {_attribute(k): v for k, v in attributes.items()}
  assert place.find(slices, 4) == Place(*wanted, "vm-7", "10.0.0.7")


def test_a_machine_that_cannot_tell_its_place_says_what_is_missing(metadata):
  with pytest.raises(ValueError, match="agent-worker-number, worker-id"):
    place.find(1, 4)
  assert place.find(1, 1).name == "0-0", "it is the only one"


def test_a_pods_place_is_in_its_environment(monkeypatch):
  for name, value in {
    bootstrap.VARIABLE: "gs://b/x",
    "TPU_WORKER_ID": "3",
    "JOB_COMPLETION_INDEX": "1",
    "JOB_INDEX": "1",
    "POD_IP": "10.1.1.1",
  }.items():
    monkeypatch.setenv(name, value)
  found = place.find(2, 4)
  assert (found.slice, found.worker, found.address) == (1, 3, "10.1.1.1")
  assert found.name == "1-3"


def test_processes_are_counted_through_all_slices():
  where = Place(1, 3, "h", "10.0.0.9")
  found = flags.environment(where, "10.0.0.1", 2, 4, "t", "/r")
  assert found["JAX_COORDINATOR_ADDRESS"] == "10.0.0.1:8476"
  assert found["JAX_NUM_PROCESSES"] == "8"
  assert found["JAX_PROCESS_ID"] == "7"
  assert found["MEGASCALE_SLICE_ID"] == "1"
  alone = flags.environment(where, "10.0.0.1", 1, 4, "t", "/r")
  assert not [name for name in alone if name.startswith("MEGASCALE")]


def test_every_variable_has_its_reason():
  for flag in flags.TABLE:
    assert len(flag.reason) > 8 and flag.reason.endswith(".")
  names = [flag.name for flag in flags.TABLE]
  assert len(names) == len(set(names))


def test_the_environment_is_made_once_for_a_wheel(monkeypatch, tmp_path):
  monkeypatch.setenv("DROPE_ROOT", str(tmp_path))
  wheel = b"a wheel"
  objects = {"gs://b/x/w.whl": wheel, "gs://b/x/lock.txt": b"jax==1\n"}
  ran = []
  monkeypatch.setattr(bootstrap, "get", objects.get)
  monkeypatch.setattr(bootstrap, "_uv", lambda: "uv")

  def run(*words):
    ran.append(words)
    if words[1] == "venv":
      bootstrap.pathlib.Path(words[-1]).mkdir(parents=True)

  monkeypatch.setattr(bootstrap, "_run", run)
  order = {
    "wheel": "w.whl",
    "wheel_sha256": hashlib.sha256(wheel).hexdigest(),
    "extras": "tpu,gcs",
  }
  first = bootstrap.agent("gs://b/x", order)
  assert [words[1] for words in ran] == ["venv", "pip"]
  assert "drope_jax[tpu,gcs] @ file://" in ran[1][-1]
  assert bootstrap.agent("gs://b/x", order) == first
  assert len(ran) == 2, "made a second time"
  objects["gs://b/x/w.whl"] = b"another"
  order["wheel_sha256"] = "0" * 64
  with pytest.raises(ValueError, match="not the one that `run` built"):
    bootstrap.agent("gs://b/x", order)


def test_a_start_up_script_that_fails_tells_watch(monkeypatch):
  told = {}
  monkeypatch.setenv(bootstrap.VARIABLE, "gs://b/x")
  monkeypatch.setattr(
    bootstrap, "get", lambda url: b'{"id": "r", "attempt": 3}'
  )
  monkeypatch.setattr(bootstrap, "put", told.__setitem__)

  def fail(folder, order):
    raise ValueError("no network")

  monkeypatch.setattr(bootstrap, "agent", fail)
  with pytest.raises(SystemExit, match="no network"):
    bootstrap.main()
  ((where, record),) = told.items()
  assert where.startswith("gs://b/x/hosts/r/3/startup-")
  found = json.loads(record)
  assert found["state"] == "failed" and "no network" in found["said"]


def test_without_a_bucket_a_failure_goes_to_the_guest_attributes(
  metadata, monkeypatch
):
  metadata[_attribute(bootstrap.METADATA)] = "gs://b/x"
  sent = []
  monkeypatch.setattr(bootstrap, "_answer", sent.append)

  def refuse(url):
    raise error.HTTPError("https://b/run.json", 403, "Forbidden", None, None)

  monkeypatch.setattr(bootstrap, "get", refuse)
  with pytest.raises(SystemExit, match="403"):
    bootstrap.main()
  (asked,) = sent
  assert asked.method == "PUT"
  assert asked.full_url.endswith(
    "/computeMetadata/v1/instance/guest-attributes/drope-launch/failed"
  )
  found = json.loads(asked.data)
  assert found["host"] == "vm-7"
  assert found["said"] == "HTTP Error 403: Forbidden for https://b/run.json"


def test_a_request_whose_answer_is_cut_off_is_made_again(monkeypatch):
  answers = [http.client.IncompleteRead(b"a"), OSError("reset"), b"whole"]

  class Answer(io.BytesIO):
    def read(self):
      answer = answers.pop(0)
      if isinstance(answer, Exception):
        raise answer
      return answer

  monkeypatch.setattr(request, "urlopen", lambda asked, timeout: Answer())
  monkeypatch.setattr(bootstrap.time, "sleep", lambda seconds: None)
  assert bootstrap.metadata("instance/name") == "whole"
  assert answers == []


def test_the_installer_is_the_pinned_one(monkeypatch, tmp_path):
  monkeypatch.setenv("DROPE_ROOT", str(tmp_path))
  monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
  wheel = io.BytesIO()
  with zipfile.ZipFile(wheel, "w") as archive:
    archive.writestr(bootstrap._UV_PROGRAM, "#!/bin/sh\necho it runs\n")
  monkeypatch.setattr(bootstrap, "_answer", lambda request: wheel.getvalue())
  with pytest.raises(ValueError, match="not the file"):
    bootstrap._uv()
  digest = hashlib.sha256(wheel.getvalue()).hexdigest()
  monkeypatch.setattr(bootstrap, "_UV_SHA256", digest)
  assert subprocess.check_output([bootstrap._uv()], text=True) == "it runs\n"


def test_the_start_up_script_is_for_the_python_of_old_images():
  # tpu-ubuntu2204-base has 3.10, and others 3.8.
  ast.parse(script.source(), feature_version=(3, 8))
  imported = {
    alias.name.split(".")[0]
    for node in ast.walk(ast.parse(script.source()))
    if isinstance(node, ast.Import)
    for alias in node.names
  }
  assert imported <= sys.stdlib_module_names


def test_the_start_up_script_needs_no_file_in_a_pod():
  # python3 -c has no __file__.
  names = {"__name__": "pod"}
  exec(script.source(), names)
  assert callable(names["main"])


def test_a_training_ends_with_a_shells_status_and_its_last_words(tmp_path):
  log = tmp_path / "log"
  running = training.Training(["--help"], {}, tmp_path / "work", log)
  while (code := running.poll()) is None:
    pass
  assert code == 0
  assert "drope train" in log.read_text()
  assert running.last_line() in " ".join(log.read_text().split())
  log.write_text("the only  line\n\n")
  assert running.last_line() == "the only line"
  log.write_bytes(b"x" * training._TAIL_BYTES + b"\nthe end\n")
  assert running.last_line() == "the end"


def test_what_is_set_on_a_host_stays(tmp_path, monkeypatch):
  monkeypatch.setenv("DROPE_DEBUG", "0")
  log = tmp_path / "log"
  variables = {"DROPE_DEBUG": "1"}
  running = training.Training(["no.gin"], variables, tmp_path, log)
  while (code := running.poll()) is None:
    pass
  assert code == 2 and "Traceback" not in log.read_text()
