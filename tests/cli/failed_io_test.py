"""Errors that follow a failed read or save are dropped, and no others."""

import asyncio
import gc
import logging
import signal
import sys
import time
import types
import warnings

from absl import logging as absl_logging
import pytest

from drope_jax.cli import failed_io, termination

# Messages of Orbax and TensorStore.
READS = (
  "Encountered error while reading array index: (slice(0, 6, 1)). See full "
  "TensorStore details: ...",
  'NOT_FOUND: Error opening "zarr3" driver: ... [tensorstore_spec=...]',
  'OUT_OF_RANGE: Error writing "k/c/0" in OCDBT database at local file "..."',
)

LOOPS = (
  "Event loop is closed",
  "'_UnixSelectorEventLoop' object has no attribute '_signal_handlers'",
)


@pytest.fixture
def heard(monkeypatch):
  """The errors that Python could not raise and that are not silenced."""
  heard = []
  monkeypatch.setattr(
    sys, "unraisablehook", lambda lost: heard.append(str(lost.exc_value))
  )
  for name in ("asyncio", "absl"):
    monkeypatch.setattr(logging.getLogger(name), "filters", [])
  failed_io.silence()
  failed_io.silence()
  return heard


@types.coroutine
def _pause():
  yield


async def _interrupted(text):
  try:
    await _pause()
  except BaseException as error:
    raise ValueError(text) from error


@pytest.mark.parametrize("text", [*READS, *LOOPS])
def test_interrupted_reads_are_silent(heard, text):
  for message in (text, "mine"):
    read = _interrupted(message)
    read.send(None)
    del read
  gc.collect()
  assert heard == ["mine"]


@pytest.mark.parametrize("text", READS)
def test_reads_that_are_never_awaited_are_silent(heard, caplog, text):
  async def fail(message):
    raise ValueError(message)

  loop = asyncio.new_event_loop()
  for message in (text, "mine"):
    loop.create_task(fail(message))
  loop.run_until_complete(asyncio.sleep(0))
  loop.close()
  gc.collect()
  (record,) = caplog.records
  assert str(record.exc_info[1]) == "mine"


def test_logs_of_orbax_threads_are_silent(heard, caplog):
  logging.getLogger("asyncio").error("Task was destroyed but it is pending!")
  for path in ("/lib/orbax/checkpoint/manager.py", "/mine/manager.py"):
    failing = "try:\n  1 / 0\nexcept ZeroDivisionError:\n  log(path)"
    names = {"log": absl_logging.exception, "path": path}
    exec(compile(failing, path, "exec"), names)
  (record,) = caplog.records
  assert record.getMessage() == "/mine/manager.py"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_dropped_signal_is_sent_again(heard, number, ctrl_c):
  own = signal.signal(signal.SIGTERM, termination.terminate)

  class Held:
    def __del__(self):  # Python drops its exceptions.
      signal.raise_signal(number)

  kinds = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: termination.Terminated,
  }
  try:
    with pytest.raises(KeyboardInterrupt) as caught:
      Held()
      time.sleep(60)
  finally:
    signal.signal(signal.SIGTERM, own)
  assert caught.type is kinds[number] and heard == []


def test_interrupted_coroutines_are_silent(heard):
  async def read():
    pass

  with warnings.catch_warnings(record=True) as warned:
    failed_io.silence()
    read()
    gc.collect()
    warnings.warn("mine", RuntimeWarning, stacklevel=1)
  assert [str(warning.message) for warning in warned] == ["mine"]
