"""A slice's description is read whole, or refused in a line."""

import pathlib

import pytest

from drope_jax.plan import slices
from launch import chips, slice

SLICES = sorted((pathlib.Path(slice.__file__).parent / "slices").glob("*.toml"))
GOOD = {
  "slice": '"v5e-16"',
  "way": '"queued"',
  "capacity": '"spot"',
  "zone": '"us-west4-a"',
  "project": '"p"',
  "bucket": '"gs://b/x"',
}


def _write(folder, **changes) -> pathlib.Path:
  file = folder / "mine.toml"
  values = {k: v for k, v in (GOOD | changes).items() if v is not None}
  file.write_text("".join(f"{k} = {v}\n" for k, v in values.items()))
  return file


@pytest.mark.parametrize("file", SLICES, ids=lambda file: file.stem)
def test_every_shipped_description_is_one(file):
  rented = slice.read(file, {}, placeholders=True)
  assert rented.name == file.stem.removesuffix(".toml")
  assert file.read_text().startswith("# ")


def test_the_shipped_ones_are_of_every_chip_way_and_capacity():
  rented = [slice.read(file, {}, placeholders=True) for file in SLICES]
  names = {r.slice for r in rented}
  wanted = {"v4-8", "v5e-16", "v5e-256", "v5p-128", "v6e-256", "tpu7x-64"}
  assert wanted <= names
  assert {r.shape.kind for r in rented} == chips.CHIPS.keys()
  assert {r.way for r in rented} == {"group", "queued", "jobset"}
  assert {r.capacity for r in rented} == set(slice.CAPACITIES)
  assert max(r.slices for r in rented) == 2


@pytest.mark.parametrize(
  ("name", "topology", "hosts", "machine"),
  [
    # docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
    ("v4-8", "2x2x1", 1, "ct4p-hightpu-4t"),
    ("v5e-8", "2x4", 1, "ct5lp-hightpu-8t"),
    ("v5e-16", "4x4", 4, "ct5lp-hightpu-4t"),
    ("v5e-256", "16x16", 64, "ct5lp-hightpu-4t"),
    ("v5p-128", "4x4x4", 16, "ct5p-hightpu-4t"),
    ("v6e-256", "16x16", 64, "ct6e-standard-4t"),
    ("tpu7x-64", "2x4x4", 8, "tpu7x-standard-4t"),
  ],
)
def test_shapes_are_google_clouds(name, topology, hosts, machine):
  shape = chips.parse(name)
  assert (shape.topology, shape.hosts) == (topology, hosts)
  assert shape.machine_type == machine


@pytest.mark.parametrize("file", SLICES, ids=lambda file: file.stem)
def test_the_training_checks_for_the_very_chips_that_are_rented(file):
  rented = slice.read(file, {}, placeholders=True)
  if rented.topology is None:
    assert rented.shape.kind == "tpu7x"
    return
  checked = slices.parse(rented.topology)
  assert (checked.chip, checked.chips) == (rented.shape.kind, rented.chips)
  assert checked.slices == rented.slices


def test_names_come_from_the_file_and_the_environment(tmp_path):
  file = _write(tmp_path, project=None, bucket=None)
  variables = {
    "DROPE_LAUNCH_PROJECT": "mine",
    "DROPE_LAUNCH_BUCKET": "gs://home/x",
  }
  rented = slice.read(file, variables)
  assert (rented.name, rented.project) == ("mine", "mine")
  assert rented.folder == "gs://home/x/launch/mine"
  assert rented.service_account == "drope-tpu@mine.iam.gserviceaccount.com"


def test_an_ai_zone_is_of_its_region(tmp_path):
  rented = slice.read(_write(tmp_path, zone='"us-central1-ai1a"'), {})
  assert rented.region == "us-central1"


@pytest.mark.parametrize("hours", [1, 168])
def test_flex_start_may_last_an_hour_to_a_week(tmp_path, hours):
  changes = {"capacity": '"flex-start"', "max_run_hours": str(hours)}
  assert slice.read(_write(tmp_path, **changes), {}).max_run_hours == hours


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"slice": '"v5e-17"'}, "slice must be one of v4-"),
    ({"slice": '"tpu7x-64"'}, "way of tpu7x-64 must be group or jobset"),
    ({"way": '"group"'}, "way of v5e-16 must be queued or jobset"),
    ({"capacity": '"cheap"'}, "capacity must be on-demand, spot"),
    ({"capacity": '"reserved"'}, "or calendar needs a reservation"),
    ({"capacity": '"calendar"'}, "or calendar needs a reservation"),
    ({"reservation": '"r"'}, "no other takes one"),
    ({"capacity": '"flex-start"'}, "Flex-start capacity needs max_run_hours"),
    (
      {"capacity": '"flex-start"', "max_run_hours": "200"},
      "max_run_hours must be 1 to 168",
    ),
    (
      {"capacity": '"flex-start"', "max_run_hours": "0"},
      "max_run_hours must be 1 to 168",
    ),
    ({"way": '"jobset"'}, "A JobSet needs a cluster and its location"),
    ({"zone": '"us-west4"'}, "zone must be like us-west4-a"),
    ({"bucket": '"/tmp/x"'}, "bucket must be gs://BUCKET"),
    ({"bucket": '"gs://b/"'}, "without a slash at its end"),
    ({"bucket": '"gs://b/50%,x"'}, "of letters, digits"),
    ({"name": '"Mine"'}, "name must be at most 40 small letters"),
    ({"slices": "0"}, "slices must be 1 or more"),
    ({"slices": "true"}, "slices must be int"),
    ({"disk_gb": "10"}, "disk_gb must be 50 or more"),
    ({"disk_gb": "99"}, "'queued' has no place for disk_gb, got 99"),
    ({"project": '""'}, "project must be an id of Google Cloud's, got ''"),
    ({"project": None}, "needs project (or DROPE_LAUNCH_PROJECT)"),
    ({"chips": "4"}, "has no field chips"),
    ({"zone": "a"}, "must be toml"),
  ],
)
def test_a_mistake_is_named_with_its_file(tmp_path, changes, told):
  file = _write(tmp_path, **changes)
  with pytest.raises(ValueError) as raised:
    slice.read(file, {})
  assert told in str(raised.value) and str(file) in str(raised.value)
  assert "\n" not in str(raised.value).split("(")[0]
