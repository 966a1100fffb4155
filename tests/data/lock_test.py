"""A folder has one writer, and a crash leaves no lock."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys

from etils import epath
import pytest
import tensorstore

from drope_jax.data import lock

_HOLD = """
import sys
from drope_jax.data import lock
with lock.held(sys.argv[1]):
  print("held", flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
  """Another process, which holds a folder that it has created."""
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLD, tmp_path / "run"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  assert process.stdout.readline() == b"held\n"
  yield process
  process.kill()
  process.communicate()


def test_the_error_names_the_first_writer(holder, tmp_path):
  before = (tmp_path / "run" / lock.FILENAME).read_bytes()
  since = json.loads(before)["since"]
  message = (
    f"got {tmp_path}/run, where process {holder.pid} on {socket.gethostname()} "
    f"(since {since})"
  )
  for _ in range(2):
    with (
      pytest.raises(ValueError, match=re.escape(message)),
      lock.held(tmp_path / "run"),
    ):
      pass
  assert (tmp_path / "run" / lock.FILENAME).read_bytes() == before


def test_the_lock_of_a_killed_writer_is_free(holder, tmp_path):
  holder.kill()
  holder.wait()
  assert (tmp_path / "run" / lock.FILENAME).exists()
  with lock.held(tmp_path / "run"):
    record = json.loads((tmp_path / "run" / lock.FILENAME).read_text())
    assert record["pid"] == os.getpid()
  assert not list((tmp_path / "run").iterdir())


def test_the_lock_is_free_after_an_error(tmp_path):
  for _ in range(2):
    with pytest.raises(KeyError), lock.held(tmp_path):
      raise KeyError
  assert not list(tmp_path.iterdir())


def test_a_deleted_lock_file_does_not_lock(tmp_path, monkeypatch):
  flock, path = fcntl.flock, tmp_path / lock.FILENAME
  removed = []

  def flock_after_removal(file, operation):
    if not removed:
      removed.append(path.unlink())
    return flock(file, operation)

  monkeypatch.setattr(fcntl, "flock", flock_after_removal)
  with lock.held(tmp_path):
    assert removed and json.loads(path.read_text())["pid"] == os.getpid()
    with pytest.raises(ValueError, match="one writer"), lock.held(tmp_path):
      pass


def test_a_file_system_without_locks_is_warned_about(
  tmp_path, monkeypatch, caplog
):
  def flock(file, operation):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

  monkeypatch.setattr(fcntl, "flock", flock)
  with lock.held(tmp_path):
    (record,) = caplog.records
  assert f"{tmp_path}: this file system has no locks" in record.getMessage()


@pytest.fixture
def bucket(monkeypatch):
  """A store of objects with generations, in place of a bucket."""
  store = tensorstore.KvStore.open("memory://").result()

  class Opened:
    def result(self):
      return store

  monkeypatch.setattr(tensorstore.KvStore, "open", lambda spec: Opened())
  return store


class Clock:
  """A clock that advances only during sleep."""

  def __init__(self, monkeypatch):
    self.now, self.meanwhile = 0.0, lambda: None
    monkeypatch.setattr(lock.time, "monotonic", lambda: self.now)
    monkeypatch.setattr(lock.time, "sleep", self._sleep)

  def _sleep(self, seconds):
    self.now += seconds
    self.meanwhile()


OBJECTS = epath.Path("gs://bucket/run")


@pytest.fixture
def clock(monkeypatch):
  return Clock(monkeypatch)


def test_a_renewed_lease_keeps_others_out(bucket, clock):
  first = lock._Lease(OBJECTS)
  first.acquire()
  before = bucket[lock.FILENAME]
  clock.meanwhile = first.renew
  with pytest.raises(ValueError, match=f"where process {os.getpid()} on "):
    lock._Lease(OBJECTS).acquire()
  assert clock.now < lock._EXPIRES_S
  assert bucket[lock.FILENAME] == before
  first.require_held()


def test_a_lease_is_renewed_while_it_is_held(bucket, monkeypatch):
  monkeypatch.setattr(lock, "_RENEW_EVERY_S", 0.001)
  generations = set()
  with lock.held(OBJECTS) as require_held:
    while len(generations) < 3:
      generations.add(bucket.read(lock.FILENAME).result().stamp.generation)
    require_held()
  assert not bucket.list().result()


def test_a_lease_left_by_a_crash_can_be_taken_after_it_expires(bucket, clock):
  lock._Lease(OBJECTS).acquire()
  second = lock._Lease(OBJECTS)
  second.acquire()
  assert clock.now >= lock._EXPIRES_S
  second.require_held()


def test_a_released_lease_is_not_waited_for(bucket, clock):
  first, second = lock._Lease(OBJECTS), lock._Lease(OBJECTS)
  first.acquire()
  clock.meanwhile = first.release
  second.acquire()
  assert 0 < clock.now < lock._EXPIRES_S
  assert second.renew()


def test_one_of_two_waiting_writers_gets_the_lease(bucket, clock):
  lock._Lease(OBJECTS).acquire()
  quicker, slower = lock._Lease(OBJECTS), lock._Lease(OBJECTS)

  def overtaken(found):
    quicker.acquire()
    return found

  slower._await_change = overtaken
  with pytest.raises(ValueError, match="one writer"):
    slower.acquire()
  assert quicker.renew() and not slower.renew()


def test_a_suspended_writer_finds_its_lease_taken(bucket, clock):
  first, second = lock._Lease(OBJECTS), lock._Lease(OBJECTS)
  first.acquire()
  assert first.renew()
  second.acquire()
  first.require_held()  # It has not checked the lease yet.
  assert not first.renew()
  with pytest.raises(ValueError, match="one writer"):
    first.require_held()
  first.release()
  assert second.renew(), "it took the other's away"


def test_a_lost_answer_keeps_the_lease(bucket, clock):
  lease = lock._Lease(OBJECTS)
  lease.acquire()
  lease._objects.write(lock.FILENAME, lease._mine).result()  # Answer lost.
  assert lease.renew() and lease.renew()
  lease.require_held()


def test_a_network_error_keeps_the_lease(bucket, clock, monkeypatch):
  lease = lock._Lease(OBJECTS)
  lease.acquire()
  with monkeypatch.context() as patch:
    patch.setattr(lease, "_objects", None)
    assert lease.renew()
  assert lease.renew()
