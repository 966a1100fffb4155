"""Whatever befalls a training's process or disk, it ends in the same bits."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from drope_jax.checkpoint import store
from drope_jax.train import metrics

STEPS = 300
BINDINGS = (
  f"TrainPhase.steps = {STEPS}",
  "TrainPhase.optimizer = @Muon()",
  "Recipe.log_every_steps = 1",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, str]:
  """An environment of one device, in which nothing is compiled twice."""
  folder = tmp_path_factory.mktemp("cache")
  return os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(folder),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": os.pathsep.join(sys.path),
    "XLA_FLAGS": "",
  }


@pytest.fixture
def start(here, cache):
  """Starts `drope train` in a process of its own, which the test's end ends."""
  started = []

  def start(out, save_every, *arguments, **options) -> subprocess.Popen:
    bindings = (*BINDINGS, f"Recipe.save_every_steps = {save_every}")
    process = subprocess.Popen(
      [sys.executable, "-m", "drope_jax.cli.main", "train", "tiny.gin"]
      + ["--out", str(out)]
      + [word for binding in bindings for word in ("--set", binding)]
      + [*arguments],
      cwd=here,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      **{"env": cache} | options,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def whole(trained, cache, tmp_path_factory):
  """The folder of a run that nothing disturbed."""
  out = tmp_path_factory.mktemp("whole") / "run"
  command = [sys.executable, "-m", "drope_jax.cli.main", "train", "tiny.gin"]
  for binding in BINDINGS:
    command += ["--set", binding]
  subprocess.run([*command, "--out", out], cwd=trained, env=cache, check=True)
  return out


def _lines(run):
  timed = ("tokens_per_s", "mfu", "step_s", "data_wait")
  return [
    {k: value for k, value in line.items() if not k.startswith(timed)}
    for line in metrics.read(run)
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
  deadline = time.monotonic() + 120
  while not condition():
    if process.poll() is not None:
      assert ends and process.returncode == 0, process.communicate()
      return
    assert time.monotonic() < deadline
    time.sleep(0.002)


def _touched(run) -> int:
  file = run / metrics.FILENAME
  return file.stat().st_mtime_ns if file.exists() else 0


def _logged(run) -> int:
  file = run / metrics.FILENAME
  return file.read_text().count("\n") if file.exists() else 0


def test_sigterm_saves_the_step_and_the_next_start_resumes(start, here, whole):
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
  assert len(metrics.read(run)) == step
  _assert_ends_as(start(run, 10_000), run, whole)


def _saving(run) -> list[str]:
  """Returns the saves that are under way, or were when their process died."""
  names = os.listdir(run) if run.exists() else []
  return [name for name in names if store.TEMPORARY in name]


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


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_ends_in_the_same_bits(
  start, here, whole, kills
):
  rng, run = random.Random(0), here / "new"
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
