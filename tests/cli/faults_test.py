"""Whatever befalls a training's process or disk, it ends in the same bits."""

import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from drope_jax.analysis import records
from drope_jax.checkpoint import files, store
from drope_jax.data import lock
from drope_jax.data import store as data_store
from drope_jax.exits import Exit
from drope_jax.train import heartbeat, metrics
from tests import xla

STEPS = 120
BINDINGS = (
  f"TrainPhase.steps = {STEPS}",
  "TrainPhase.optimizer = @Muon()",
  "Recipe.log_every_steps = 1",
)
_PROGRAM = ("-m", "drope_jax.cli.main")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
  """An environment of one device."""
  return os.environ | {
    "PYTHONPATH": os.pathsep.join(sys.path),
    "XLA_FLAGS": xla.flags(devices=1),
  }


@pytest.fixture
def start(here, environment):
  """Starts `drope train` in a process of its own, which the test's end ends."""
  started = []

  def start(
    out, save_every, *arguments, program=_PROGRAM, **options
  ) -> subprocess.Popen:
    bindings = (*BINDINGS, f"Recipe.save_every_steps = {save_every}")
    process = subprocess.Popen(
      [sys.executable, *program, "train", "tiny.gin"]
      + ["--out", str(out)]
      + [word for binding in bindings for word in ("--set", binding)]
      + [*arguments],
      cwd=here,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      # Which a shell leaves ignored in a background job.
      preexec_fn=lambda: signal.signal(
        signal.SIGINT, signal.default_int_handler
      ),
      **{"env": environment} | options,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def whole(trained, environment, tmp_path_factory):
  """The folder of a run that nothing disturbed."""
  out = tmp_path_factory.mktemp("whole") / "run"
  command = [sys.executable, "-m", "drope_jax.cli.main", "train", "tiny.gin"]
  for binding in BINDINGS:
    command += ["--set", binding]
  subprocess.run(
    [*command, "--out", out], cwd=trained, env=environment, check=True
  )
  return out


def _lines(run):
  timed = (
    "tokens_per_s",
    "mfu",
    "step_s",
    "data_wait",
    "elapsed_s",
    "kept_s",
    "goodput",
  )
  return [
    {k: value for k, value in line.items() if not k.startswith(timed)}
    for line in records.read_metrics(run)
  ]


def _assert_ends_as(process, run, whole):
  _, error = process.communicate(timeout=120)
  assert process.returncode == 0, error
  for folder in ("pretrain", str(STEPS)):
    got, want = (store.load_model(path / folder)[0] for path in (run, whole))
    jax.tree.map(np.testing.assert_array_equal, got, want)
  assert _lines(run) == _lines(whole)


def _await(condition, process, ends=False):
  """Waits for it while the process runs, or until it `ends`."""
  deadline = time.monotonic() + 300
  while not condition():
    if process.poll() is not None:
      assert ends and process.returncode == 0, process.communicate()
      return
    assert time.monotonic() < deadline
    time.sleep(0.002)


def _touched(run) -> int:
  file = run / records.METRICS
  return file.stat().st_mtime_ns if file.exists() else 0


def _logged(run) -> int:
  file = run / records.METRICS
  return file.read_text().count("\n") if file.exists() else 0


def test_sigterm_saves_the_step_and_a_kill_loses_no_save(start, here, whole):
  run = here / "new"
  process = start(run, 10_000)
  _await(lambda: _logged(run) > 20, process)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 143, error
  (step,) = store.finished_steps(run)
  assert 20 < step < STEPS
  assert error.splitlines()[-1] == (
    f"drope train: terminated; saved step {step}; the same command resumes"
  )
  assert len(records.read_metrics(run)) == step
  process = start(run, 1)
  _await_some_moment(0, run, process, random.Random(0))
  process.kill()
  process.wait()
  _assert_ends_as(start(run, 10_000), run, whole)


def _saving(run) -> list[str]:
  """Returns the saves that are under way, or were when their process died."""
  names = os.listdir(run) if run.exists() else []
  return [name for name in names if files.TEMPORARY in name]


def _await_some_moment(kind, run, process, rng):
  saves, touched = set(_saving(run)), _touched(run)
  match kind:
    case 0:  # In the middle of a save.
      _await(lambda: set(_saving(run)) - saves, process, ends=True)
      time.sleep(rng.uniform(0, 0.03))
    case 1:  # Among its steps.
      _await(lambda: _touched(run) != touched, process, ends=True)
      time.sleep(rng.uniform(0, 0.3))
    case 2:  # While it starts.
      time.sleep(rng.uniform(0, 6))


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bits(start, here, whole):
  kills, rng, run = 50, random.Random(0), here / "new"
  in_saves = finished = 0
  for kill in range(kills):
    process = start(run, 1 + kill % 7)
    before = set(_saving(run))
    _await_some_moment(kill % 3, run, process, rng)
    process.kill()
    if process.wait() == 0:
      _assert_ends_as(process, run, whole)
      run, finished = here / f"new{kill}", finished + 1
    in_saves += bool(set(_saving(run)) - before)
  assert in_saves >= kills // 6, "few saves were cut off"
  assert finished <= kills // 6, "few processes were killed"
  _assert_ends_as(start(run, 10), run, whole)


@pytest.mark.parametrize("damage", ["flipped", "cut short"])
def test_a_damaged_step_is_named_and_left_only_when_asked(drope, here, damage):
  command = ["train", "tiny.gin", "--out", "new"]
  for binding in (
    "TrainPhase.steps = 7",
    "Recipe.save_every_steps = 2",
    "Recipe.log_every_steps = 1",
  ):
    command += ["--set", binding]
  run = here / "new"
  assert drope(*command).status == 0
  lines = _lines(run)
  want = store.load_model(run / "7")[0]
  shutil.rmtree(run / "pretrain")
  files = [path for path in (run / "7" / "params").rglob("d/*")]
  file = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(file.read_bytes())
  if damage == "flipped":
    content[len(content) // 2] ^= 1
  else:
    del content[len(content) // 2 :]
  file.write_bytes(content)
  ran = drope(*command)
  line = ran.err.splitlines()[-1]
  assert ran.status == 2 and "Traceback" not in ran.err
  assert f"got {run}/7, which cannot be read" in line
  assert line.endswith("or go back with --from-step 6.")
  assert store.finished_steps(run) == [6, 7]
  ran = drope(*command, "--from-step", "5")
  assert ran.status == 2 and "which has 6, 7. Name one" in ran.err
  assert drope(*command, "--from-step", "6").status == 0
  jax.tree.map(
    np.testing.assert_array_equal, store.load_model(run / "pretrain")[0], want
  )
  assert _lines(run) == lines


@pytest.fixture
def at_step_3(monkeypatch):
  """Has something happen once step 3 is logged, once."""

  def install(event):
    write = metrics.MetricsLog.write

    def write_then(self, line):
      write(self, line)
      if line["step"] == 3:
        monkeypatch.setattr(metrics.MetricsLog, "write", write)
        event()

    monkeypatch.setattr(metrics.MetricsLog, "write", write_then)

  return install


_TO_8 = ("TrainPhase.steps = 8", "Recipe.save_every_steps = 2")


def _command(out):
  bindings = (*_TO_8, "Recipe.log_every_steps = 1")
  words = [word for binding in bindings for word in ("--set", binding)]
  return ["train", "tiny.gin", "--out", out, *words]


def _assert_goes_on_as_if_nothing_had_been(drope, here):
  for out in ("new", "whole"):
    assert drope(*_command(out)).status == 0
  got, want = (
    store.load_model(here / out / "pretrain")[0] for out in ("new", "whole")
  )
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert _lines(here / "new") == _lines(here / "whole")


def test_ctrl_c_saves_the_step(drope, here, at_step_3, ctrl_c):
  at_step_3(ctrl_c)
  command = [*_command("new"), "--set", "Recipe.save_every_steps = 500"]
  ran = drope(*command)
  assert ran.status == 130
  assert ran.err.splitlines()[-1] == (
    "drope train: interrupted; saved step 4; the same command resumes"
  )
  assert store.finished_steps(here / "new") == [4]


def test_a_full_disk_before_the_first_step_costs_nothing(drope, here):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  command = ("train", "tiny.gin", "--out", "new")
  for room in (10, 200):  # For who writes, or for recipe.json.
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
      ran = drope(*command)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ran.status == 2 and ran.err.count("\n") == 1, ran.err
    assert "a file would be larger" in ran.err
  assert drope(*command).status == 0


def test_a_save_that_the_disk_cannot_hold_costs_only_itself(
  drope, here, at_step_3, caplog
):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  def limit():
    while not store.finished_steps(here / "new"):
      time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))

  at_step_3(limit)
  try:
    ran = drope(*_command("new"))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert ran.status == 2 and "Traceback" not in ran.err, ran.err
  assert "a file would be larger" in ran.err.splitlines()[-1]
  assert not [record for record in caplog.records if record.exc_info]
  assert store.finished_steps(here / "new") == [2]
  _assert_goes_on_as_if_nothing_had_been(drope, here)


def test_a_store_cut_short_under_a_run_is_named_and_costs_no_save(
  drope, here, at_step_3, monkeypatch
):
  monkeypatch.setattr(data_store, "READ_TOKENS", 64)
  shutil.rmtree(here / "text")
  tokenize = "tokenize text.txt --tokenizer tiny.model --out text --workers 1"
  assert drope(*tokenize.split()).status == 0
  file = here / "text/tokens/c/0"
  content = file.read_bytes()
  at_step_3(lambda: os.truncate(file, len(content) // 20))
  ran = drope(*_command("new"))
  assert ran.status == 2 and "Traceback" not in ran.err, ran.err
  line = ran.err.splitlines()[-1]
  assert "complete token store" in line and "text" in line
  steps = store.finished_steps(here / "new")
  assert steps and steps[-1] < 8
  file.write_bytes(content)
  _assert_goes_on_as_if_nothing_had_been(drope, here)


_READ_ONLY = """
import subprocess, sys
out, *command = sys.argv[1:]
subprocess.run(["mount", "--bind", out, out], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", out], check=True)
sys.exit(subprocess.run(command).returncode)
"""


@pytest.mark.skipif(
  shutil.which("unshare") is None
  or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode,
  reason="may mount nothing",
)
@pytest.mark.slow
@pytest.mark.parametrize("begun", [False, True])
def test_a_read_only_folder_is_one_line(
  drope, here, environment, begun, at_step_3
):
  run = here / "new"
  if begun:
    at_step_3(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert drope(*_command("new")).status == 143
  else:
    run.mkdir()
  before = sorted(run.rglob("*"))
  ran = subprocess.run(
    ["unshare", "-m", sys.executable, "-c", _READ_ONLY, run, sys.executable]
    + ["-m", "drope_jax.cli.main", *_command("new")],
    cwd=here,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert ran.returncode == 2, ran.stderr
  assert "Read-only file system" in ran.stderr.splitlines()[-1]
  assert "Traceback" not in ran.stderr
  assert sorted(run.rglob("*")) == before
  _assert_goes_on_as_if_nothing_had_been(drope, here)


@pytest.fixture
def start_all(start, environment):
  """Starts the first of so many processes that are one program."""

  def start_all(out, count, *, of, all=(), only_last=(), program=_PROGRAM):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
      start(
        out,
        10_000,
        *("--distributed", "60"),
        *all,
        *(only_last if index == count - 1 else ()),
        program=program,
        env=environment
        | {
          "JAX_COORDINATOR_ADDRESS": address,
          "JAX_NUM_PROCESSES": str(of),
          "JAX_PROCESS_ID": str(index),
        },
      )
      for index in range(count)
    ]

  return start_all


def test_processes_that_disagree_are_told_in_what(start_all, here):
  processes = start_all(
    here / "new", 2, of=2, only_last=("--set", "TrainPhase.steps = 7")
  )
  for process in processes:
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2, error
    assert error.count("\n") == 1
    assert f"recipe.phases[0].steps is {STEPS} in process 0 on " in error
    assert f", 7 in process 1 on {socket.gethostname()}." in error
  assert not (here / "new").exists()


_NO_FIFTH_BATCH = """
import os, sys, time
from drope_jax import sharding
from drope_jax.cli import main
from drope_jax.train import heartbeat
heartbeat.EVERY_S = 0.5  # As the limit is short, too.
put_batch, batches = sharding.put_batch, []
def put(mesh, batch):
  batches.append(batch)
  if len(batches) == 5 and os.environ["JAX_PROCESS_ID"] == "1":
    time.sleep(1000)
  return put_batch(mesh, batch)
sharding.put_batch = put
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_host_that_stands_still_is_named_to_all_and_ends_them(
  start_all, here
):
  run = here / "new"
  processes = start_all(
    run,
    2,
    of=2,
    all=("--set", "Recipe.stall_minutes = 0.2"),
    program=("-c", _NO_FIFTH_BATCH),
  )
  statuses, host = set(), socket.gethostname()
  for process in processes:
    _, error = process.communicate(timeout=120)
    statuses.add(process.returncode)
    assert f"process 1 on {host} waits for data after step 4" in error
    assert "Traceback" not in error
  # JAX ends the others as soon as the first has ended.
  assert Exit.STALLED in statuses <= {Exit.STALLED, Exit.HOST_LOST}
  first, second = heartbeat.read(run)
  assert (second.doing, second.step) == ("reading", 4)
  # If the second ends before the first does, the first's collective fails.
  assert first.doing in ("stepping", "ended") and first.step == 5


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_as_one_and_fail_together(
  start_all, here, whole, count
):
  run = here / "new"
  with lock.held(run):
    for process in start_all(run, count, of=count):
      _, error = process.communicate(timeout=180)
      assert process.returncode == 2, error
      assert f"where process {os.getpid()} on" in error.splitlines()[-1]
  processes = start_all(run, count, of=count)
  _await(lambda: _logged(run) > 5, processes[0])
  processes[1].send_signal(signal.SIGINT)
  for index, process in enumerate(processes):
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if index == 1 else 143), error
  (step,) = store.finished_steps(run)
  processes = start_all(run, count, of=count)
  _await(lambda: _logged(run) > step + 5, processes[0])
  processes[1].kill()
  for process in (processes[0], *processes[2:]):
    _, error = process.communicate(timeout=60)
    assert process.returncode == Exit.HOST_LOST, error
    assert "another process of the run has ended" in error.splitlines()[-1]
  logged = _logged(run)
  processes = start_all(run, count, of=count)
  _await(lambda: _logged(run) > logged + 5, processes[0])
  processes[0].kill()  # Which coordinates them.
  for process in processes[1:]:
    _, error = process.communicate(timeout=60)
    assert process.returncode == Exit.HOST_LOST, error
    assert error.count("\n") == 1
    assert "another process of the run has ended" in error
    *_, log = error.split()
    assert "coordination service" in pathlib.Path(log).read_text()
  for process in start_all(run, count, of=count):
    _, error = process.communicate(timeout=180)
    assert process.returncode == 0, error
  losses = [[line["loss"] for line in _lines(path)] for path in (run, whole)]
  # Sums over processes round otherwise, and training carries that on.
  np.testing.assert_allclose(*losses, rtol=1e-3)


# Processes are told of a signal within a second, which a run has to outlast.
_SLOW_STEPS = """
import sys, time
from drope_jax import sharding
from drope_jax.cli import main
put_batch = sharding.put_batch
def put(mesh, batch):
  time.sleep(0.1)
  return put_batch(mesh, batch)
sharding.put_batch = put
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(start_all, here, whole):
  run, saved = here / "new", 0
  for count in (2, 1, 4):
    processes = start_all(run, count, of=count, program=("-c", _SLOW_STEPS))
    _await(lambda before=saved: _logged(run) > before + 5, processes[0])
    processes[-1].send_signal(signal.SIGTERM)
    for process in processes:
      _, error = process.communicate(timeout=180)
      assert process.returncode == 143, error
    before, saved = saved, store.finished_steps(run)[-1]
    assert saved > before
  got, want = ([line["loss"] for line in _lines(p)] for p in (run, whole))
  assert len(got) == saved
  np.testing.assert_allclose(got, want[:saved], rtol=1e-3)


@pytest.mark.slow
def test_processes_share_what_a_surgery_adds(start_all, here):
  run = here / "new"
  phases = "(@TrainPhase(), @SurgeryPhase(), @last/TrainPhase())"
  bindings = (
    "TrainPhase.steps = 2",
    f"Recipe.phases = {phases}",
    "SurgeryPhase.surgery = @Surgery()",
    "Surgery.drop = 'all'",
    "Surgery.qk_norm = 'qk'",
    "last/TrainPhase.name = 'last'",
  )
  every = [word for binding in bindings for word in ("--set", binding)]
  for process in start_all(run, 2, of=2, all=every):
    _, error = process.communicate(timeout=180)
    assert process.returncode == 0, error
  params, manifest = store.load_model(run / "last")
  assert manifest.model.qk_norm == "qk"
  assert params["layers"]["attention"]["q_norm"]["gain"].std() > 0
