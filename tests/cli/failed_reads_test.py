"""What a failed read leaves to say is dropped; all else is still said."""

import asyncio
import gc
import logging
import sys
import types

import pytest

from drope_jax.cli import failed_reads

# As Orbax and TensorStore put it.
READS = (
  "Encountered error while reading array index: (slice(0, 6, 1)). See full "
  "TensorStore details: ...",
  'NOT_FOUND: Error opening "zarr3" driver: ... [tensorstore_spec=...]',
)


@pytest.fixture
def heard(monkeypatch):
  """The errors that Python could not raise, of those not silenced."""
  heard = []
  monkeypatch.setattr(
    sys, "unraisablehook", lambda lost: heard.append(str(lost.exc_value))
  )
  monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])
  failed_reads.silence()
  failed_reads.silence()
  return heard


@types.coroutine
def _pause():
  yield


async def _interrupted(text):
  try:
    await _pause()
  except BaseException as error:
    raise ValueError(text) from error


@pytest.mark.parametrize("text", [*READS, "Event loop is closed"])
def test_reads_cut_off_are_silent(heard, text):
  for message in (text, "mine"):
    read = _interrupted(message)
    read.send(None)
    del read
  gc.collect()
  assert heard == ["mine"]


@pytest.mark.parametrize("text", READS)
def test_reads_that_nobody_awaits_are_silent(heard, caplog, text):
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
