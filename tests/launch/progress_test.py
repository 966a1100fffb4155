"""How far a run is, by what its bucket holds."""

import dataclasses
import json

import pytest

from drope_jax.train.heartbeat import Doing, Heartbeat
from launch import progress

BEAT = Heartbeat(
  process=0,
  processes=2,
  host="h0",
  pid=1,
  begun=0.0,
  started=0.0,
  time=9.0,
  doing=Doing.STEPPING,
  phase="recalibrate",
  step=150,
  stepped=8.0,
  last_step=350,
)


def _read(fields):
  return progress.first_heartbeat("gs://b/run", lambda _: json.dumps(fields))


def test_a_heartbeat_is_read_as_it_was_written():
  assert _read(dataclasses.asdict(BEAT)) == BEAT


@pytest.mark.parametrize(
  "changes", [{"doing": "idling"}, {"of_a_later_version": 1}]
)
def test_a_heartbeat_of_another_version_is_named(changes):
  with pytest.raises(ValueError, match="this version .*gs://b/run/heart.*/0"):
    _read(dataclasses.asdict(BEAT) | changes)
