"""The parent outlives the child that works, and forwards signals."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from drope_jax.cli import supervisor

pytestmark = pytest.mark.skipif(
  sys.platform != "linux", reason="on Linux alone"
)

_FORK = """
import fcntl, os, pathlib, signal, sys, termios, time
if os.isatty(0):
  fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from drope_jax.cli import supervisor
status = supervisor.fork(pathlib.Path("log"))
if status is not None:
  print("status", status)
  sys.exit(3)
"""


@pytest.fixture
def start(tmp_path):
  """Starts a process that runs `source` in its child."""
  (tmp_path / "log").touch()
  root = pathlib.Path(supervisor.__file__).parents[2]
  started = []

  def start(source, terminal=subprocess.DEVNULL) -> subprocess.Popen:
    process = subprocess.Popen(
      [sys.executable, "-c", _FORK + source],
      cwd=tmp_path,
      env=os.environ | {"PYTHONPATH": str(root)},
      stdin=terminal,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
  ("end", "status"),
  [("sys.exit(5)", 5), ("pass", 0), ("os.abort()", -signal.SIGABRT)],
)
def test_the_parent_returns_how_the_child_ended(start, end, status):
  out, error = start(end).communicate(timeout=60)
  assert (out, error) == (f"status {status}\n", "")


def test_only_pythons_standard_error_is_shown(start, tmp_path):
  process = start("""
os.write(2, b"stack\\n")
print("line", file=sys.stderr)
os.abort()
""")
  assert process.communicate(timeout=60)[1] == "line\n"
  assert (tmp_path / "log").read_text() == "stack\n"


def test_output_before_a_signal_is_shown(start):
  process = start("""
from drope_jax.cli import termination
with termination.stop_request("train"):
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(1000)
""")
  out, error = process.communicate(timeout=60)
  assert out == "status 143\n"
  assert error == "drope train: terminated; the same command resumes\n"


_COUNT_SIGNALS = """
came = []
for number in (signal.SIGINT, signal.SIGTERM):
  signal.signal(number, lambda number, frame: came.append(number))
print("ready", flush=True)
while not came:
  time.sleep(0.01)
time.sleep(0.2)  # Time for another signal.
print(*came)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_forwarded(start, number):
  process = start(_COUNT_SIGNALS)
  assert process.stdout.readline() == "ready\n"
  process.send_signal(number)
  assert process.communicate(timeout=60)[0] == f"{int(number)}\nstatus 0\n"


def test_ctrl_c_reaches_the_child_once(start):
  master, terminal = os.openpty()
  process = start(_COUNT_SIGNALS, terminal)
  assert process.stdout.readline() == "ready\n"
  os.write(master, b"\x03")
  assert process.communicate(timeout=60)[0] == "2\nstatus 0\n"
  os.close(master)


def test_the_child_dies_with_its_parent(start):
  process = start("print('ready', flush=True); time.sleep(1000)")
  assert process.stdout.readline() == "ready\n"
  process.kill()
  # It ends when no process can write any more.
  assert process.communicate(timeout=60)[0] == ""
