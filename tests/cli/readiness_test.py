"""A host that is unfit is named before the run costs anything."""

import tempfile
import types

import jax
import pytest

from drope_jax.checkpoint import store
from drope_jax.cli import configure, machine, readiness
from drope_jax.plan import slices
from drope_jax.train.recipe import Recipe

_GIB = 2**30
FIT = {
  "name": "w-0",
  "unwritable": None,
  "memory": 100 * _GIB,
  "disk": 100 * _GIB,
  "spare": _GIB,
  "ahead_s": 0.1,
}


def _hosts(**changes):
  """Two hosts, the second with some changes."""
  return {0: FIT, 1: FIT | {"name": "w-1"} | changes}


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (
      {"unwritable": "denied."},
      "but process 1 on w-1 is not: denied. Mount",
    ),
    (
      {"ahead_s": 7.2},
      "one of process 1 on w-1 that is 7 s ahead of process 0's",
    ),
    ({"ahead_s": -60.0}, "on w-1 that is 60 s behind process 0's. Set it"),
    (
      {"spare": 2**20},
      "100 MiB of disk for temporary files, got 1 MiB for pro",
    ),
  ],
)
def test_an_unfit_host_is_named(changes, told):
  assert readiness.obstacle(_hosts(), "gs://b") is None
  assert told in readiness.obstacle(_hosts(**changes), "gs://b")


def test_looking_leaves_nothing_behind(tmp_path):
  found = readiness.describe(str(tmp_path / "new" / "run"))
  assert readiness.obstacle({0: found}, "run") is None
  assert found["memory"] > 0 and found["disk"] > 0
  assert [*tmp_path.iterdir()] == []


def test_a_folder_that_takes_no_file_is_told_of(tmp_path, monkeypatch):
  def refuse(dir):
    raise PermissionError(13, "Permission denied", str(dir))

  monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
  found = readiness.describe(str(tmp_path / "run"))
  assert found["unwritable"] == f"{tmp_path}: Permission denied"


@pytest.fixture
def recipe(here):
  return configure.build("tiny.gin", Recipe, [])


def test_hosts_with_room_are_fit(recipe):
  readiness.require(recipe, "new", _hosts(), None)
  readiness.require(recipe, "new", _hosts(disk=None), None)


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"memory": 30_000}, "GiB of memory on w-1, got 0.0 GiB that are free"),
    ({"disk": 30_000}, "GiB of disk in new, got 0.0 GiB that are free on w-1"),
  ],
)
def test_a_host_without_room_for_a_save_is_named(recipe, changes, told):
  with pytest.raises(ValueError, match=f"pretrain: a save takes .* {told}"):
    readiness.require(recipe, "new", _hosts(**changes), None)


def test_processes_of_one_host_share_its_memory(recipe):
  of_one = 0
  for size in range(20_000, 400_000, 4_000):
    try:
      readiness.require(recipe, "new", {0: FIT | {"memory": size}}, None)
    except ValueError:
      of_one = size
  both = {0: FIT | {"memory": of_one + 4_000}}
  readiness.require(recipe, "new", both, None)
  both[1] = both[0]
  with pytest.raises(ValueError, match="on w-0"):
    readiness.require(recipe, "new", both, None)


def test_what_is_done_needs_no_room(recipe):
  assert store.finished_steps("run") == [2]
  readiness.require(recipe, "run", _hosts(memory=0, disk=0), None)


def _devices(count, kind="TPU v5 lite", a_process=4):
  return [
    types.SimpleNamespace(device_kind=kind, process_index=i // a_process)
    for i in range(count)
  ]


@pytest.mark.parametrize(
  ("devices", "told"),
  [
    (
      _devices(8, "TPU v4"),
      "got 8: '4 of TPU v4' in processes 0-1 on w-0, w-1",
    ),
    (
      _devices(7),
      "v5e-8 has 8 devices of kind TPU v5 lite, got 7: '4 of TPU v5 lite' in "
      "process 0 on w-0, '3 of TPU v5 lite' in process 1 on w-1. Start it on",
    ),
  ],
)
def test_other_devices_than_planned_are_named(monkeypatch, devices, told):
  hosts = {0: "w-0", 1: "w-1"}
  monkeypatch.setattr(jax, "devices", lambda: _devices(8))
  readiness._require_chips(slices.parse("v5e-8"), hosts)
  monkeypatch.setattr(jax, "devices", lambda: devices)
  with pytest.raises(ValueError) as error:
    readiness._require_chips(slices.parse("v5e-8"), hosts)
  assert told in str(error.value)


def test_a_training_on_other_devices_is_refused_before_it_writes(here, drope):
  ran = drope("train", "tiny.gin", "--out", "new", "--topology", "v5e-8")
  assert ran.status == 2 and ran.err.count("\n") == 1
  assert "got 8: '8 of cpu' in process 0 on" in ran.err
  ran = drope("train", "tiny.gin", "--out", "new", "--topology", "v5e-7")
  assert ran.status == 2 and "A topology must be one of" in ran.err
  assert not (here / "new").exists()


def test_a_container_may_take_less_than_its_machine(tmp_path, monkeypatch):
  monkeypatch.setattr(machine, "_group", lambda: tmp_path)
  assert machine.out_of_memory_kills() == 0
  whole = machine.available_memory()
  for name, text in {
    "memory.max": "3000\n",
    "memory.current": "2500\n",
    "memory.stat": "anon 2000\nactive_file 300\ninactive_file 100\n",
    "memory.events": "low 0\noom 3\noom_kill 2\n",
  }.items():
    (tmp_path / name).write_text(text)
  assert machine.available_memory() == 900 < whole
  assert machine.out_of_memory_kills() == 2
  (tmp_path / "memory.max").write_text("max\n")
  assert machine.available_memory() > 900
