"""A process finds its place by variables, or as JAX knows the cluster."""

import signal

from jax._src import cloud_tpu_init, clusters
from jax._src.clusters import cloud_tpu_cluster
import pytest

from drope_jax.cli import hosts, machine, supervisor
from drope_jax.cli.rendezvous import Place
from drope_jax.exits import Exit

_SLURM = {
  "SLURM_JOB_ID": "5",
  "SLURM_STEP_NODELIST": "node[07-09]",
  "SLURM_NTASKS": "3",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
  """An environment without any; what a test leaves in it is taken back."""
  for name in (
    *hosts.VARIABLES,
    *_SLURM,
    "JAX_COORDINATOR_PORT",
    "OMPI_MCA_orte_hnp_uri",
    "KUBERNETES_SERVICE_HOST",
  ):
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)


@pytest.fixture
def tpu(monkeypatch):
  """The environment of the second of a TPU slice's two hosts, as on GKE."""
  for module in (cloud_tpu_init, cloud_tpu_cluster, clusters.cluster):
    monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
  monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
  monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1,127.0.0.2")
  monkeypatch.setenv("TPU_WORKER_ID", "1")
  for name in ("COORDINATOR_ADDRESS", "NUM_SLICES", "SLICE_ID"):
    monkeypatch.setenv(f"MEGASCALE_{name}", "")


def test_on_cloud_tpus_they_meet_at_a_port_that_the_firewall_opens(tpu):
  assert hosts.find(1) == Place("127.0.0.1:8476", 2, 1)


def test_a_port_that_is_set_is_kept(tpu, monkeypatch):
  monkeypatch.setenv("JAX_COORDINATOR_PORT", "1234")
  assert hosts.find(1) == Place("127.0.0.1:1234", 2, 1)


def test_elsewhere_jax_chooses_the_port(monkeypatch):
  for name, value in _SLURM.items():
    monkeypatch.setenv(name, value)
  assert hosts.find(1) == Place(f"node07:{65535 - 2**12 + 1 + 5}", 3, 2)


def test_variables_come_before_what_jax_finds(tpu, monkeypatch):
  for name, value in zip(hosts.VARIABLES, ("a:1", "4", "3"), strict=True):
    monkeypatch.setenv(name, value)
  assert hosts.find(1) == Place("a:1", 4, 3)


@pytest.mark.parametrize(
  ("values", "told"),
  [
    ((), "needs a cluster that JAX knows"),
    (("a:1", "2"), "got no JAX_PROCESS_ID. Set all"),
    (("a:1", "two", "1"), "must be whole numbers, got two and 1"),
    (("a:1", "2", "-1"), "must be whole numbers, got 2 and -1"),
    (("a:1", "2", "2"), "numbered from 0, got number 2"),
  ],
)
def test_a_place_that_cannot_be_told_is_refused(monkeypatch, values, told):
  for name, value in zip(hosts.VARIABLES, values, strict=False):
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=told):
    hosts.find(1)


@pytest.mark.parametrize(
  ("error", "aborts"),
  [
    (RuntimeError("/job:a/task:1 heartbeat timeout. This indicates"), True),
    (RuntimeError("(stopped sending heartbeats): /job:a/task:1"), True),
    (OSError(28, "No space left", "run/heartbeats/0.json"), False),
    (ValueError("No heartbeat is in run/heartbeats."), False),
  ],
)
def test_only_jaxs_word_of_a_lost_process_aborts(monkeypatch, error, aborts):
  class Aborted(Exception):
    pass

  class Ended(Exception):
    pass

  def end(*of):
    raise Aborted if not of else Ended

  monkeypatch.setattr(hosts.os, "abort", end)
  monkeypatch.setattr(hosts.os, "_exit", end)
  with pytest.raises(Aborted if aborts else Ended):
    hosts._end(error)


@pytest.mark.parametrize(
  ("status", "said", "kills", "told"),
  [
    (0, "", 0, 0),
    (2, "Gloo", 0, 2),
    (Exit.STALLED, "a thread", 0, Exit.STALLED),
    (-signal.SIGABRT, "task:1 heartbeat timeout.", 0, Exit.HOST_LOST),
    (-signal.SIGSEGV, "File train/heartbeat.py", 0, 128 + signal.SIGSEGV),
    (-signal.SIGKILL, "", 0, 128 + signal.SIGKILL),
    (-signal.SIGKILL, "", 1, Exit.OUT_OF_MEMORY),
  ],
)
def test_how_the_child_ended_becomes_a_status(
  monkeypatch, capsys, status, said, kills, told
):
  def fork(log):
    log.write_text(said)
    return status

  counts = iter([4, 4 + kills])
  monkeypatch.setattr(machine, "out_of_memory_kills", lambda: next(counts))
  monkeypatch.setattr(supervisor, "fork", fork)
  assert hosts.supervised() == told
  assert capsys.readouterr().err.count("\n") == (status not in (0, 2))
