"""A whole run on a fake Google Cloud, on hosts that are local processes.

JAX itself joins them. All files are in an emulated bucket.
"""

import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from drope_jax.checkpoint import store
from drope_jax.cli import main
from drope_jax.data import corpus
from tests import emulator, xla
from tests.launch.fakes import storage

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 12
RECIPE = f"""
include 'shape.gin'
Recipe:
  model = @ModelConfig()
  tokenizer = 'tiny.model'
  phases = (@pretrain/TrainPhase(), @SurgeryPhase(), @recalibrate/TrainPhase())
  save_every_steps = 3
  log_every_steps = 1
TrainPhase:
  data = @DataConfig()
  batch_size = 16
  context_tokens = 32
  optimizer = @AdamW()
  schedule = @Constant()
  steps = {STEPS // 2}
DataConfig.stores = ('text',)
Constant.peak = 1e-3
pretrain/TrainPhase.name = 'pretrain'
SurgeryPhase.surgery = @Surgery()
Surgery.drop = 'all'
recalibrate/TrainPhase.name = 'recalibrate'
"""
SHAPE = """
ModelConfig:
  vocab_size = 340
  num_layers = 1
  width = 16
  num_heads = 2
  num_kv_heads = 1
  head_dim = 8
  mlp_width = 16
  context_tokens = 32
  positional = @Rope()
"""
SLICE = """
slice = "{slice}"
way = "{way}"
capacity = "spot"
zone = "us-west4-a"
{more}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> pathlib.Path:
  """A recipe's file; each host has four devices, as the slices' hosts have."""
  monkeypatch.setenv("XLA_FLAGS", xla.flags(devices=4))
  with socket.create_server(("127.0.0.1", 0)) as server:
    # Other runs on this machine may have Google's own port.
    monkeypatch.setenv("JAX_COORDINATOR_PORT", str(server.getsockname()[1]))
  folder = tmp_path / "recipe"
  folder.mkdir()
  (folder / "shape.gin").write_text(SHAPE)
  file = folder / "tiny.gin"
  file.write_text(RECIPE)
  return file


@pytest.fixture
def data(bucket, tmp_path) -> pathlib.Path:
  """A folder with the tokenizer and the store, which the bucket has too."""
  folder = tmp_path / "data"
  folder.mkdir()
  (folder / "text.txt").write_text(next(corpus.documents("fit"))[:20_000])
  command = f"tokenize {folder}/text.txt --tokenizer {folder}/tiny.model"
  more = f"--train-vocab 340 --out {folder}/text --workers 1"
  assert main.main(f"{command} {more}".split()) == 0
  for file in [folder / "tiny.model", *(folder / "text").rglob("*")]:
    if file.is_file():
      where = f"gs://bucket/drope/{file.relative_to(folder)}"
      storage.put(where, file.read_bytes())
  return folder


def _undisturbed(recipe, data, out, hosts: int) -> None:
  """Trains in the same number of processes, without the launcher."""
  port = os.environ["JAX_COORDINATOR_PORT"]
  processes = [
    subprocess.Popen(
      [
        *(sys.executable, "-m", "drope_jax.cli.main", "train", str(recipe)),
        *("--data", str(data), "--out", str(out), "--distributed", "120"),
      ],
      cwd=ROOT,
      env=os.environ
      | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.77.1:{port}",
        "JAX_NUM_PROCESSES": str(hosts),
        "JAX_PROCESS_ID": str(index),
      },
    )
    for index in range(hosts)
  ]
  assert [process.wait() for process in processes] == [0] * hosts


def _watch(config) -> subprocess.Popen:
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "launch", "watch", "--config", str(config)),
      *("--look-every-s", "1", "--settle-s", "5", "--join-s", "600", "--keep"),
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


def _params(path):
  params, _ = store.load_model(path)
  return jax.tree.map(np.asarray, params)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("way", "hosts", "net"),
  [
    ("queued", 2, 11),
    ("group", 2, 12),
    ("jobset", 2, 13),
    ("queued", 4, 14),
  ],
)
def test_a_run_outlives_two_preemptions(
  bucket, google, launch, recipe, data, tmp_path, way, hosts, net
):
  name = f"{'v4' if way == 'queued' else 'v5p'}-{8 * hosts}"
  more = 'cluster = "c"\nlocation = "us-west4"' if way == "jobset" else ""
  config = tmp_path / "life.toml"
  config.write_text(SLICE.format(slice=name, way=way, more=more))
  key = {
    "queued": "compute tpus queued-resources",
    "group": "compute instance-groups managed",
    "jobset": "jobset",
  }[way]
  google.write_script(
    net=net, creates=[["waiting", "provisioning", "active"], ["active"]]
  )
  # In the middle of a save without a word, and amid steps with a warning.
  out = f"runs/{way}-{hosts}"  # The tests share the bucket.
  dangers = {f"{out}/6/": False, f"{out}/9/": True}

  def uploading(path: str) -> None:
    for part in list(dangers):
      if part in path:
        google.preempt(key, "life", warned=dangers.pop(part))

  run = ("run", recipe, "--config", config, "--report-every-s", "1")
  assert launch(*run, "--out", f"gs://bucket/drope/{out}")[0] == 0
  bucket.server.uploading = uploading
  watching = _watch(config)
  for line in watching.stdout:
    if line.startswith("running"):
      break
  watching.kill()  # The next `watch` continues from there.
  watching.wait()
  watching = _watch(config)
  said = watching.stdout.read()
  bucket.server.uploading = lambda path: None
  assert watching.wait() == 0, said
  assert dangers == {}, "the machines were not taken back twice"
  assert "preempted" in said and "finished" in said
  status, shown, _ = launch("status", "--config", config)
  assert status == 0
  assert re.search(r"preemptions +2\ncrashes +0\n", shown)
  assert f"{STEPS} of {STEPS}" in shown

  _undisturbed(recipe, data, tmp_path / "alone", hosts)
  got = _params(f"gs://bucket/drope/{out}/recalibrate")
  want = _params(tmp_path / "alone/recalibrate")
  jax.tree.map(np.testing.assert_array_equal, got, want)

  assert google.hosts() and google.names()
  assert launch("delete", "--yes", "--config", config)[0] == 0
  assert google.hosts() == [] and google.names() == []
  assert not emulator.objects(bucket, "drope/launch/")
  if way != "jobset":
    assert any("textPayload" in e["entries"][0] for e in google.entries)
  everything = " ".join(word for c in google.commands() for word in c)
  assert "secret" not in everything
