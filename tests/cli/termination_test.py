import signal
import subprocess
import sys

import pytest

from drope_jax.cli import termination

PROGRAM = """
import signal
from drope_jax.cli import termination

# A shell leaves it ignored in a background job.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, termination.at_once)
with termination.in_any_call():
  print("in it", flush=True)
  sum(range(10**15))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_within_a_librarys_call(number):
  process = subprocess.Popen(
    [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE
  )
  try:
    assert process.stdout.readline() == b"in it\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == -number
  finally:
    process.kill()


@pytest.mark.parametrize(
  ("before", "within"),
  [
    (signal.default_int_handler, signal.SIG_DFL),
    (signal.SIG_IGN, signal.SIG_IGN),
  ],
)
def test_afterwards_signals_are_handled_as_before(before, within):
  own = signal.signal(signal.SIGINT, before)
  try:
    with termination.in_any_call():
      assert signal.getsignal(signal.SIGINT) is within
    assert signal.getsignal(signal.SIGINT) is before
  finally:
    signal.signal(signal.SIGINT, own)
