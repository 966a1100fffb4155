import signal
import subprocess
import sys

import pytest

from drope_jax.cli import termination

PROGRAM = """
import signal
from drope_jax.cli import termination

# A background job of a shell ignores the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, termination.terminate)
with termination.interruptible_calls():
  print("in it", flush=True)
  sum(range(10**15))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_within_a_library_call(number):
  process = subprocess.Popen(
    [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE
  )
  try:
    assert process.stdout.readline() == b"in it\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == -number
  finally:
    process.kill()


# Acquiring the lock again never ends, and blocks Python's handlers.
_STUCK = """
import ctypes, signal
from drope_jax.cli import termination

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, termination.terminate)
lock = ctypes.create_string_buffer(64)
with termination.stop_request("train") as request:
  if {unsaved}:
    assert not request.stopping(1)
  print("in it", flush=True)
  for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(lock)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("unsaved", [False, True])
def test_signals_end_a_training_run_wherever_it_hangs(number, unsaved):
  """The second signal ends it, and so does the first if nothing is unsaved."""
  process = subprocess.Popen(
    [sys.executable, "-c", _STUCK.format(unsaved=unsaved)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
  try:
    assert process.stdout.readline() == "in it\n"
    process.send_signal(number)
    if unsaved:
      line = process.stderr.readline()
      assert line == (
        f"drope train: {word}; will save and end; repeat to end at once\n"
      )
      process.send_signal(number)
    _, error = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == 128 + number
  assert error == f"drope train: {word}; the same command resumes\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_save_and_reports_it(number, capfd, ctrl_c):
  own = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
  with termination.stop_request("train") as request:
    assert not request.stopping(1)
    signal.raise_signal(number)
    assert request.stopping(2)
    error = request.error("saved step 2")
    word = str(error).split(";")[0]
  assert str(error) == f"{word}; saved step 2; the same command resumes"
  terminated = isinstance(error, termination.Terminated)
  assert terminated == (number == signal.SIGTERM)
  assert capfd.readouterr().err.startswith(f"drope train: {word}; will save")
  assert own == {n: signal.getsignal(n) for n in own}


def test_an_ignored_signal_stays_ignored(capfd):
  own = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with termination.stop_request("train"):
      signal.raise_signal(signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, own)
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
  ("before", "within"),
  [
    (signal.default_int_handler, signal.SIG_DFL),
    (signal.SIG_IGN, signal.SIG_IGN),
  ],
)
def test_signal_handlers_are_restored(before, within):
  own = signal.signal(signal.SIGINT, before)
  try:
    with termination.interruptible_calls():
      assert signal.getsignal(signal.SIGINT) is within
    assert signal.getsignal(signal.SIGINT) is before
  finally:
    signal.signal(signal.SIGINT, own)
