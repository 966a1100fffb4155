"""What goes wrong before a training begins, on a fake Google Cloud.

Its hosts are local processes. The training on them is a stub that ends at once,
unless a test says otherwise.
"""

import functools
import os
import pathlib
import time
import types
import zipfile

import pytest

from launch import bundle, slice, watch
from launch.commands import run as do
from launch.states import Phase, Policy
from tests import emulator
from tests.launch.life_test import SLICE

ROOT = pathlib.Path(__file__).parents[2]
WAYS = ("queued", "group", "jobset")
KINDS = {
  "queued": "compute tpus queued-resources",
  "group": "compute instance-groups managed",
  "jobset": "container node-pools",
}
POLICY = Policy(hosts=2, retries=3, back_off_s=0.5, settle_s=1.0)


@pytest.fixture
def stub_wheel(monkeypatch, tmp_path):
  """A wheel with the launcher and a stub of `drope train`.

  Its attribute `training` is the stub's program, which at first succeeds.
  """
  stub = types.SimpleNamespace(training="print('trained')\n")

  def build(folder: pathlib.Path) -> pathlib.Path:
    wheel = folder / "stub.whl"
    modules = ("__init__.py", "exits.py", "plan/__init__.py", "plan/slices.py")
    files = [ROOT / "drope_jax" / name for name in modules]
    with zipfile.ZipFile(wheel, "w") as archive:
      for file in [*files, *(ROOT / "launch").rglob("*.py")]:
        archive.write(file, file.relative_to(ROOT))
      archive.writestr("drope_jax/cli/main.py", stub.training)
    return wheel

  monkeypatch.setattr(bundle, "build_wheel", build)
  return stub


@pytest.fixture
def order(bucket, google, launch, tmp_path):
  """Orders a shipped recipe on two hosts, and returns their description."""

  def order(way: str):
    more = 'cluster = "c"\nlocation = "us-west4"' if way == "jobset" else ""
    name = "v4-16" if way == "queued" else "v5p-16"
    config = tmp_path / f"{way}.toml"
    config.write_text(SLICE.format(slice=name, way=way, more=more))
    run = ("run", "recipes/tiny.gin", "--config", config)
    status, _, err = launch(*run, "--report-every-s", "0.5")
    assert status == 0, err
    return slice.read(config, os.environ)

  yield order
  for name in emulator.objects(bucket, "drope/launch/"):
    bucket.delete_file("bucket", name)  # The tests share the bucket.


watch_it = functools.partial(watch.watch, do=do, look_every_s=0.5)


def _fast_clock() -> float:
  """Returns a time that passes 30 times as fast."""
  return 30 * time.time()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_it_outlives_a_stock_out_slow_machines_and_a_failed_delete(
  google, order, stub_wheel, capsys, way
):
  slow = ["waiting", "waiting", "provisioning", "provisioning", "active"]
  google.write_script(
    creates=[["waiting", "stockout"], slow], delete_fails=["INTERNAL: later"]
  )
  state = watch_it(order(way), POLICY)
  assert (state.phase, state.attempt, state.crashes) == (Phase.FINISHED, 2, 0)
  out, err = capsys.readouterr()
  for words in ("out of capacity", "provisioning for", "finished for"):
    assert words in out
  assert "delete will be tried again" in err
  assert google.hosts() == []
  assert not [name for name in google.names() if name.startswith(KINDS[way])]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_quota_ends_it_and_what_holds_quota_is_deleted(
  google, order, stub_wheel, way
):
  google.write_script(creates=[["waiting", "quota"]])
  state = watch_it(order(way), POLICY)
  assert state.phase is Phase.FAILED
  assert "the project's quota does not allow it" in state.reason
  assert "Quota 'TPUS' exceeded" in state.reason
  assert not [name for name in google.names() if name.startswith(KINDS[way])]


@pytest.mark.slow
def test_a_host_that_never_joins_ends_it_after_a_second_try(
  google, order, stub_wheel
):
  google.write_script(absent=["0-1"])
  stub_wheel.training = (
    "import time; time.sleep(1e4)"  # It waits for the other.
  )
  policy = Policy(hosts=2, back_off_s=0.5, join_s=300.0, settle_s=1e6)
  state = watch_it(order("group"), policy, clock=_fast_clock)
  assert state.phase is Phase.FAILED
  assert "twice before its first step" in state.reason
  assert "of 2 hosts" in state.reason
  assert google.hosts() == []


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_failing_installation_is_named_after_a_second_try(
  google, order, stub_wheel, way
):
  google.write_script(boot_fails=["0-0", "0-1"])
  state = watch_it(order(way), POLICY)
  assert state.phase is Phase.FAILED
  assert "twice before its first step" in state.reason
  assert "`uv venv` failed: error: no solution found" in state.reason
  assert google.hosts() == []


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_host_that_may_not_read_the_bucket_says_so(
  google, order, stub_wheel, way
):
  google.write_script(denied=["0-0", "0-1"])
  policy = Policy(hosts=2, back_off_s=0.5, join_s=1e6, settle_s=1.0)
  state = watch_it(order(way), policy, clock=_fast_clock)
  assert state.phase is Phase.FAILED
  assert "HTTP Error 403: Forbidden for" in state.reason
  assert google.hosts() == []


@pytest.mark.slow
def test_other_chips_than_those_that_are_rented_end_it(
  google, order, monkeypatch
):
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
  state = watch_it(order("queued"), POLICY)
  assert state.phase is Phase.FAILED
  assert "a mistake" in state.reason
  assert "--topology v4-16 has 8 devices" in state.reason
  assert "got 2" in state.reason
