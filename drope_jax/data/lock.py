"""A lock on a folder: one writer at a time.

In a local folder the writer holds flock(2) on a file. The kernel releases it
when the process ends, however it ends. Over NFS, Linux takes the lock on the
server: it outlives a lost machine by the lease time, 90 seconds by default
(NFSv4). If the folder is mounted with `nolock` or `local_lock`, the lock holds
only among the processes of one machine.

A bucket has no locks, but it has conditional writes: a write succeeds only if
the object has not changed. There the writer renews an object regularly. An
object that has not changed for a minute was left by a crash.
"""

from collections.abc import Callable, Iterator
import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time
import uuid

from etils import epath
import tensorstore

from drope_jax.data import paths

FILENAME = "writer.lock"

_RENEW_EVERY_S = 15
_EXPIRES_S = 60
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held(directory: str | os.PathLike) -> Iterator[Callable[[], None]]:
  """Makes this process the only writer of a folder; creates it if needed.

  Yields a function to call before each write that two processes must not both
  make. In a bucket another process can take over the folder while this one is
  suspended; the function then raises.

  Raises:
    NotADirectoryError: it is a file.
    ValueError: another process holds the folder.
  """
  directory = epath.Path(directory)
  hold = _leased if paths.in_bucket(directory) else _locked
  with hold(directory) as require_held:
    yield require_held


@contextlib.contextmanager
def _locked(directory: epath.Path) -> Iterator[Callable[[], None]]:
  paths.require_folder(directory)
  directory.mkdir(parents=True, exist_ok=True)
  path = pathlib.Path(directory) / FILENAME
  with _open_locked(path) as file:
    try:
      file.truncate(0)
      file.write(_record())
      file.flush()
      yield lambda: None
    finally:
      path.unlink(missing_ok=True)


def _open_locked(path: pathlib.Path):
  while True:
    file = path.open("a+")
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      with file:
        raise _taken(path.parent, file.read()) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      logging.getLogger(__name__).warning(
        "%s: this file system has no locks (%s); do not start a second writer",
        path.parent,
        error.strerror,
      )
      return file
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        return file
    file.close()  # Its last holder has just deleted it.


@contextlib.contextmanager
def _leased(directory: epath.Path) -> Iterator[Callable[[], None]]:
  lease = _Lease(directory)
  lease.acquire()
  ended = threading.Event()

  def renew():
    while not ended.wait(_RENEW_EVERY_S) and lease.renew():
      pass

  thread = threading.Thread(target=renew, daemon=True)
  thread.start()
  try:
    yield lease.require_held
  finally:
    ended.set()
    thread.join()
    lease.release()


class _Lease:
  """An object in a bucket that names the writer, renewed while it runs."""

  def __init__(self, directory: epath.Path):
    self._directory = directory
    self._objects = tensorstore.KvStore.open(paths.kvstore(directory)).result()
    self._mine = _record().encode()
    self._generation = b""
    self._lost: ValueError | None = None

  def acquire(self) -> None:
    """Acquires the lease, after checking that no other process renews it."""
    lease = self._objects.read(FILENAME).result()
    if lease.state == "value":
      logging.getLogger(__name__).warning(
        "%s: waiting up to %d s to see whether %s still writes there",
        self._directory,
        _EXPIRES_S,
        _holder(lease.value.decode()),
      )
      lease = self._await_change(lease)
    self._write(lease.stamp.generation)
    self.require_held()

  def renew(self) -> bool:
    """Renews the lease; returns whether this process still holds it."""
    try:
      return self._write(self._generation)
    except Exception:  # A network error: the next attempt may succeed.
      return True

  def require_held(self) -> None:
    """Raises ValueError if another process has taken the lease."""
    if self._lost is not None:
      raise self._lost

  def release(self) -> None:
    """Deletes the lease, unless another process has taken it."""
    if self._lost is None:
      self._objects.write(FILENAME, None, if_equal=self._generation).result()

  def _await_change(self, lease):
    """Returns the object once it is gone, or unchanged for `_EXPIRES_S`."""
    deadline = time.monotonic() + _EXPIRES_S
    while time.monotonic() < deadline:
      time.sleep(_RENEW_EVERY_S / 5)
      now = self._objects.read(FILENAME).result()
      if now.state != "value":
        return now
      if now.stamp.generation != lease.stamp.generation:
        raise _taken(self._directory, now.value.decode())
    return lease

  def _write(self, generation: bytes) -> bool:
    """Writes the lease if it is unchanged; returns whether it is held now."""
    if self._lost is not None:
      return False
    written = self._objects.write(
      FILENAME, self._mine, if_equal=generation
    ).result()
    if not written.generation:
      lease = self._objects.read(FILENAME).result()
      if lease.value != self._mine:
        self._lost = _taken(self._directory, lease.value.decode())
        return False
      written = lease.stamp  # The write succeeded, but its answer was lost.
    self._generation = written.generation
    return True


def _record() -> str:
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  return json.dumps(
    {
      "host": socket.gethostname(),
      "pid": os.getpid(),
      "since": now,
      "id": uuid.uuid4().hex,
    }
  )


def _holder(record: str) -> str:
  try:
    fields = json.loads(record)
    return (
      f"process {fields['pid']} on {fields['host']} (since {fields['since']})"
    )
  except (KeyError, TypeError, ValueError):  # The record is not written yet.
    return "another process"


def _taken(directory: os.PathLike, record: str) -> ValueError:
  return ValueError(
    f"A folder can have one writer at a time, got {directory}, where "
    f"{_holder(record)} is writing. Let it finish, end it, or choose another "
    "folder."
  )
