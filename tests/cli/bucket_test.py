"""Checkpoints and token stores in a bucket, on a local server with Google's
protocol.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from drope_jax.analysis import records
from drope_jax.data import lock, store
from drope_jax.train import heartbeat
from drope_jax.train import metrics as train_metrics
from tests import emulator

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder(bucket, here, exported):
  """Another project's Hugging Face folder, in the working directory."""
  return shutil.copytree(exported, here / "theirs")


def test_commands_read_and_write_checkpoints_in_a_bucket(bucket, folder, drope):
  ran = drope("convert", "theirs", "--out", "gs://bucket/ours")
  assert (ran.status, ran.err) == (0, "")
  assert "ours/params/manifest.ocdbt" in emulator.objects(bucket)
  ran = drope("surgery", "gs://bucket/ours", "--out", "gs://bucket/dropped")
  assert (ran.status, ran.err) == (0, "")
  ran = drope("inspect", "gs://bucket/dropped")
  assert ran.status == 0 and "gs://bucket/dropped" in ran.out
  assert drope("surgery", "run", "--out", "dropped").status == 0
  generate = ("--prompt", "The President", "--max-new-tokens", "9")
  ran = drope("generate", "gs://bucket/dropped", *generate)
  assert ran == drope("generate", "dropped", *generate)
  assert ran.status == 0
  ran = drope("export", "gs://bucket/ours", "--out", "again")
  assert (ran.status, ran.err) == (0, "")
  for name in ("config.json", "model.safetensors", "tokenizer.model"):
    again = folder.parent / "again" / name
    assert again.read_bytes() == (folder / name).read_bytes()


def test_a_killed_save_leaves_no_checkpoint_and_can_be_repeated(
  bucket, folder, drope
):
  command = ("convert", "theirs", "--out", "gs://bucket/killed")
  process = subprocess.Popen(
    [sys.executable, "-m", "drope_jax.cli.main", *command],
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )

  def kill(name):
    if name == "killed/params/_METADATA":
      process.kill()

  bucket.server.uploading = kill
  assert process.wait() == -signal.SIGKILL
  bucket.server.uploading = lambda name: None
  assert "killed/params/manifest.ocdbt" in emulator.objects(bucket)
  ran = drope("inspect", "gs://bucket/killed")
  assert ran.status == 2 and "interrupted" in ran.err
  assert drope(*command).status == 0
  assert drope("inspect", "gs://bucket/killed").status == 0


def test_a_failed_command_leaves_no_files_in_a_bucket(bucket, folder, drope):
  weights = folder / "model.safetensors"
  content = bytearray(weights.read_bytes())
  content[-4:] = b"\xff\xff\xff\xff"  # A NaN.
  weights.write_bytes(content)
  (folder / "drope_manifest.json").unlink()  # It has the file's hash.
  uploaded = []
  bucket.server.uploading = uploaded.append
  ran = drope("convert", "theirs", "--out", "gs://bucket/failed")
  assert ran.status == 2 and "NaN" in ran.err
  assert "failed/params/manifest.ocdbt" in uploaded
  assert not emulator.objects(bucket, "failed")


def _put(storage, name, content=b""):
  about = {"name": name, "generation": "1", "size": str(len(content))}
  storage.create_file("bucket", name, bytes(content), about)


@pytest.mark.parametrize(
  ("command", "says"),
  [
    ("convert theirs --out gs://bucket/mine", "gs://bucket/mine exists"),
    ("convert theirs --out gs://bucket/c --overwrite", "by renaming it"),
    ("convert theirs --out gs://none/c", "got gs://none/c. Create it"),
    ("convert theirs --out gs://", "gs://BUCKET/..., got gs://"),
    ("convert theirs --out s3://bucket/c", "got s3://bucket/c"),
    ("convert gs://bucket/c --out x", "must be local, got gs://bucket/c"),
    ("export gs://bucket/c --out gs://bucket/x", "got gs://bucket/x"),
    ("inspect gs://bucket/nothing", "gs://bucket/nothing, which does not"),
  ],
)
def test_a_mistake_is_one_line_and_changes_no_object(
  bucket, folder, drope, command, says
):
  if not emulator.objects(bucket, "c/"):
    assert drope("convert", "theirs", "--out", "gs://bucket/c").status == 0
    _put(bucket, "mine/params/weights")
  before, local = emulator.objects(bucket), sorted(folder.parent.rglob("*"))
  ran = drope(*command.split())
  assert ran.status == 2 and ran.err.count("\n") == 1
  assert says in ran.err
  assert emulator.objects(bucket) == before
  assert sorted(folder.parent.rglob("*")) == local


_IN_SMALL_PARTS = """
import sys
from drope_jax.cli import main
from drope_jax.data import writer
writer._BATCH_SIZE, writer._PART_TOKENS = 1, 1
sys.exit(main.main())
"""
TOKENIZE = (
  *("tokenize", "text.txt", "--tokenizer", "tiny.model"),
  *("--workers", "1", "--out"),
)


def test_a_token_store_in_a_bucket_equals_a_local_one(bucket, here, drope):
  for out in ("gs://bucket/texts", "gs://bucket/texts"):  # Then it is finished.
    ran = drope(*TOKENIZE, out)
    assert (ran.status, ran.err) == (0, "")
  assert not emulator.objects(bucket, "texts/parts")
  there = store.Store.open("gs://bucket/texts")
  assert there.fingerprint == store.Store.open("text").fingerprint
  there.verify()
  losses = []
  for path in ("text", "gs://bucket/texts"):
    out = f"run_{len(losses)}"
    change = f"DataConfig.stores = ('{path}',)"
    ran = drope("train", "tiny.gin", "--set", change, "--out", out)
    assert ran.status == 0, ran.err
    losses.append([line["loss"] for line in records.read_metrics(here / out)])
  assert losses[0] == losses[1]


def test_a_run_in_a_bucket_has_one_writer_and_all_metrics(
  bucket, here, drope, monkeypatch, ctrl_c
):
  command = ["train", "tiny.gin", "--out", "gs://bucket/run"]
  for binding in ("TrainPhase.steps = 4", "Recipe.log_every_steps = 1"):
    command += ["--set", binding]
  monkeypatch.setattr(lock, "_RENEW_EVERY_S", 0.05)
  with lock.held("gs://bucket/run"):
    ran = drope(*command)
    assert ran.status == 2
    error = ran.err.splitlines()[-1]
    assert f"got gs://bucket/run, where process {os.getpid()} on" in error
    assert [*emulator.objects(bucket, "run/")] == [f"run/{lock.FILENAME}"]
  monkeypatch.setattr(lock, "_RENEW_EVERY_S", 15)
  write = train_metrics.MetricsLog.write

  def interrupt(self, line):
    write(self, line)
    if line["step"] == 2:
      ctrl_c()

  with monkeypatch.context() as patch:
    patch.setattr(train_metrics.MetricsLog, "write", interrupt)
    assert drope(*command).status == 130
  (beat,) = heartbeat.read("gs://bucket/run")
  assert (beat.step, beat.saved_step, beat.ended) == (3, 3, "saved step 3")
  assert f"run/{lock.FILENAME}" not in emulator.objects(bucket, "run")
  before = bucket.get_file("bucket", f"run/{records.METRICS}")
  ran = drope(*command)
  assert ran.status == 0, ran.err
  assert bucket.get_file("bucket", f"run/{records.METRICS}").startswith(before)
  begun = beat.begun
  (beat,) = heartbeat.read("gs://bucket/run")
  assert (beat.step, beat.saved_step, beat.ended) == (4, 4, "finished")
  assert beat.begun == pytest.approx(begun) and beat.started > begun
  lines = records.read_metrics("gs://bucket/run")
  assert lines[-1]["elapsed_s"] > beat.started - begun
  assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_text_is_read_from_a_bucket(bucket, here, drope):
  name = "inputs/text.txt"
  _put(bucket, name, (here / "text.txt").read_bytes())
  for given in (f"gs://bucket/{name}", "gs://bucket/inputs"):
    command = ("tokenize", given, "--tokenizer", "tiny.model", "--workers=1")
    assert drope(*command, "--out", given.replace("/", "_")).status == 0
    made = store.Store.open(given.replace("/", "_"))
    assert made.fingerprint == store.Store.open("text").fingerprint


@pytest.mark.parametrize(
  "name", ["parts/plan", "parts/000001.npz", "tokens/c/0", "metadata.json"]
)
def test_tokenizing_to_a_bucket_resumes_after_a_kill(
  bucket, here, drope, name, monkeypatch
):
  for name_of, seconds in (("_RENEW_EVERY_S", 1), ("_EXPIRES_S", 0.2)):
    monkeypatch.setattr(lock, name_of, seconds)  # The kill leaves a lease.
  script = here / "small_parts.py"
  script.write_text(_IN_SMALL_PARTS)
  out = f"cut_{name.replace('/', '_')}"
  process = subprocess.Popen(
    [sys.executable, script, *TOKENIZE, f"gs://bucket/{out}"],
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )

  def kill(uploaded):
    if uploaded.startswith(f"{out}/{name}"):
      process.kill()

  bucket.server.uploading = kill
  assert process.wait() == -signal.SIGKILL
  bucket.server.uploading = lambda name: None
  with pytest.raises((ValueError, FileNotFoundError), match="drope tokenize"):
    store.Store.open(f"gs://bucket/{out}")
  ran = drope(*TOKENIZE, f"gs://bucket/{out}")
  assert (ran.status, ran.err) == (0, "")
  made = store.Store.open(f"gs://bucket/{out}")
  made.verify()
  assert made.fingerprint == store.Store.open("text").fingerprint


@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_a_damaged_store_in_a_bucket_is_one_line(bucket, here, drope, damage):
  out = f"damaged_{damage}"
  assert drope(*TOKENIZE, f"gs://bucket/{out}").status == 0
  name = f"{out}/tokens/c/0"
  content = bytearray(bucket.get_file("bucket", name))
  bucket.delete_file("bucket", name)
  content[1000] ^= 1
  if damage != "missing":
    _put(bucket, name, content[: -(damage == "short") or None])
  for known in sys.modules["gcsfs"].GCSFileSystem._cache.values():
    known.invalidate_cache()  # gcsfs did not delete it.
  change = f"DataConfig.stores = ('gs://bucket/{out}',)"
  ran = drope("train", "tiny.gin", "--set", change, "--out", "new")
  assert ran.status == 2
  error = ran.err.splitlines()[-1]
  assert f"gs://bucket/{out}" in error
  assert "tokens/c/0" in error and "Delete it" in error
